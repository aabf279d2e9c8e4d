// A task's page: the transcript grows at its end, or at its beginning; what was missed is asked for.
"use strict";

(() => {
  const box = document.querySelector("[data-transcript]");
  const batches = document.querySelector("[data-batches]");
  const follow = document.querySelector("[data-follow]");

  const last = () => batches.lastElementChild;
  const has = (name) => batches.querySelector(`[data-batch="${CSS.escape(name)}"]`) !== null;

  /** Whether the reader is at the end of the page: then they stay there. */
  function atEnd() {
    const end = box.getBoundingClientRect().bottom;
    return end < window.innerHeight + 160;
  }

  function append(html) {
    const stay = follow.checked && !document.hidden && atEnd();
    const template = document.createElement("template");
    template.innerHTML = html;
    for (const batch of [...template.content.querySelectorAll("[data-batch]")]) if (!has(batch.dataset.batch)) batches.append(batch);
    document.querySelector("[data-silent]").hidden = batches.children.length > 0;
    if (stay) box.scrollIntoView({ block: "end" });
  }

  async function part(query) {
    const url = box.dataset.transcript;
    const answer = await fetch(`${url}${url.includes("?") ? "&" : "?"}${query}`, { headers: { Accept: "text/html-fragment" } });
    if (!answer.ok) throw new Error(await answer.text());
    return { html: await answer.text(), more: answer.headers.get("X-Turbo-More") };
  }

  let working = Promise.resolve();

  /** Batches come in their order, each with the name of the one before it: a gap is filled first. */
  async function came(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    const batch = template.content.querySelector("[data-batch]");
    if (!batch || has(batch.dataset.batch)) return;
    const before = batch.dataset.after;
    while (before && !has(before)) {
      const known = last() ? last().dataset.batch : "0-0";
      append((await part(`after=${known}`)).html);
      if (!last() || last().dataset.batch === known) break;
    }
    append(html);
  }

  if (box) {
    document.addEventListener("turbo:section", (event) => {
      if (!event.detail.section.startsWith("batch-")) return;
      working = working.then(() => came(event.detail.html)).catch((error) => turbo.say(error.message, true));
    });

    document.addEventListener("click", async (event) => {
      const earlier = event.target.closest("[data-earlier]");
      if (!earlier) return;
      event.preventDefault();
      try {
        const { html, more } = await part(`before=${earlier.dataset.earlier}`);
        const template = document.createElement("template");
        template.innerHTML = html;
        const height = document.documentElement.scrollHeight;
        batches.prepend(template.content);
        window.scrollBy(0, document.documentElement.scrollHeight - height);
        if (more) earlier.dataset.earlier = more;
        else earlier.closest("p").remove();
      } catch (error) {
        turbo.say(error.message, true);
      }
    });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select") || document.querySelector("dialog[open]")) return;
    if (event.key === "r") {
      const field = document.querySelector("[data-reply]");
      if (field) { event.preventDefault(); field.focus(); }
    } else if (event.key === "e" && box) box.scrollIntoView({ block: "end" });
  });
})();
