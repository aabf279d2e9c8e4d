// The page's script: live sections, forms, shortcuts. Pages add theirs with turbo.on(selector, start).
"use strict";

const turbo = (() => {
  const starters = [];

  // ── live sections ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Whether somebody works in it: what they typed or chose must not be taken away. */
  function inUse(node) {
    if (node.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, button, summary")) return true;
    return [...node.querySelectorAll("input, textarea, select")].some((field) =>
      field.type === "checkbox" || field.type === "radio" ? field.checked !== field.defaultChecked
        : field.tagName === "SELECT" ? [...field.options].some((o) => o.selected !== o.defaultSelected)
        : field.value !== field.defaultValue);
  }

  /** An item that is one thing to a person, and that they work in. */
  function held(node) {
    return node.nodeType === 1 && node.dataset.key && !node.querySelector("[data-key]") && inUse(node);
  }

  const done = new Set();

  /** The page has taken an item away: what was rendered just before must not bring it back. */
  function takeAway(item) {
    const key = item.dataset.key;
    if (item.contains(document.activeElement)) focusBeside(item);
    item.remove();
    done.add(key);
    setTimeout(() => done.delete(key), 5000);
  }

  /** Makes the children of `old` those of `fresh`. Children with a data-key are matched by it, and kept while they are in use. */
  function patch(old, fresh) {
    const keyed = new Map([...old.children].filter((c) => c.dataset.key).map((c) => [c.dataset.key, c]));
    let at = old.firstChild;
    for (const node of [...fresh.childNodes]) {
      const key = node.nodeType === 1 ? node.dataset.key : undefined;
      if (key && done.has(key)) continue;
      let match = key ? keyed.get(key) : at && at.nodeType === node.nodeType && at.nodeName === node.nodeName && !(at.dataset && at.dataset.key) ? at : undefined;
      if (match && match.nodeName !== node.nodeName) match = undefined;
      if (!match) {
        old.insertBefore(node, at);
        if (node.nodeType === 1) start(node);
        continue;
      }
      keyed.delete(key);
      if (match === at) at = at.nextSibling;
      else old.insertBefore(match, at);
      update(match, node);
    }
    while (at) {
      const next = at.nextSibling;
      if (!held(at)) at.remove();
      else at.classList.add("gone");
      at = next;
    }
  }

  function update(match, node) {
    if (match.nodeType !== 1) {
      if (match.data !== node.data) match.data = node.data;
      return;
    }
    if (match.isEqualNode(node) || held(match)) return;
    const open = match.tagName === "DETAILS" && match.open;
    for (const { name } of [...match.attributes]) if (!node.hasAttribute(name)) match.removeAttribute(name);
    for (const { name, value } of [...node.attributes]) if (match.getAttribute(name) !== value) match.setAttribute(name, value);
    if (open) match.open = true;
    if (match.hasAttribute("data-own")) return;
    patch(match, node);
  }

  function show(section, html) {
    const target = document.getElementById(section);
    if (!target) document.dispatchEvent(new CustomEvent("turbo:section", { detail: { section, html } }));
    if (!target || !target.hasAttribute("data-live")) return;
    const template = document.createElement("template");
    template.innerHTML = html;
    localTimes(template.content);
    target.hidden = section === "state" && html === "";
    patch(target, template.content);
    tick();
    target.dispatchEvent(new CustomEvent("turbo:shown", { bubbles: true }));
  }

  let events = null;
  let lost = 0;

  /** One stream while the page can be seen: a browser has six connections for all tabs of a host. */
  function listen() {
    const main = document.querySelector("main[data-events]");
    if (!main) return;
    if (document.hidden) {
      if (events) events.close();
      events = null;
      return;
    }
    if (events) return;
    events = new EventSource(main.dataset.events);
    events.onopen = () => { clearTimeout(lost); lost = 0; if (document.getElementById("state").dataset.lost) show("state", ""); delete document.getElementById("state").dataset.lost; };
    events.onmessage = (event) => { const { section, html } = JSON.parse(event.data); show(section, html); };
    events.onerror = () => {
      if (!lost) lost = setTimeout(() => { document.getElementById("state").dataset.lost = "1"; show("state", "<p>No connection to turbo web. Trying again …</p>"); }, 1500);
      if (events && events.readyState === EventSource.CLOSED) { events = null; setTimeout(listen, 3000); }
    };
  }

  // ── times in the reader's zone ──────────────────────────────────────────────────────────────────────────────────

  function localTimes(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(time.dateTime);
      if (isNaN(moment)) continue;
      time.title = moment.toLocaleString();
      if (time.hasAttribute("data-since")) continue;
      const today = moment.toDateString() === new Date().toDateString();
      time.textContent = moment.toLocaleString(undefined, today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
    }
  }

  const skew = Date.now() / 1000 - Number(document.body.dataset.now || Date.now() / 1000);

  function age(seconds) {
    const s = Math.max(0, Math.floor(seconds));
    const two = (n) => String(n).padStart(2, "0");
    if (s < 60) return `${s}s`;
    if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
    if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
    return `${Math.floor(s / 86400)}d${two(Math.floor((s % 86400) / 3600))}h`;
  }

  /** Ages, counted here: data-began is in Unix seconds of the server's clock. */
  function tick() {
    const now = Date.now() / 1000 - skew;
    for (const e of document.querySelectorAll("[data-began]")) set(e, age(now - Number(e.dataset.began)));
    for (const e of document.querySelectorAll("time[data-since]")) set(e, `${age(now - new Date(e.dateTime) / 1000)} ago`);
  }

  function set(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  // ── forms: sent by the script, so that the page stays ───────────────────────────────────────────────────────────

  function say(text, wrong) {
    const said = document.getElementById("said");
    said.textContent = text;
    said.classList.toggle("wrong", Boolean(wrong));
    clearTimeout(say.timer);
    if (text && !wrong) say.timer = setTimeout(() => { said.textContent = ""; }, 6000);
  }

  /** A form over a list: its button acts on the chosen tasks, or on all that match the filter. Says how many first. False: not now. */
  async function several(form, submitter) {
    const verb = submitter.dataset.verb;
    const boxes = [...document.querySelectorAll(`input[form="${form.id}"][name=task]:checked`)];
    const whole = form.querySelector("[data-whole]");
    if (!whole || !whole.checked) {
      if (!boxes.length) { say("choose some tasks first", true); return false; }
      if (!confirm(`${verb} ${boxes.length} ${boxes.length === 1 ? "task" : "tasks"}?`)) return false;
      await post(form, new URLSearchParams(new FormData(form, submitter)), `/${verb}`, () => setTimeout(() => location.reload(), 800));
      return false;
    }
    const query = new URLSearchParams(form.dataset.filterQuery);
    query.set("verb", verb);
    const answer = await fetch(`/count?${query}`, { headers: { Accept: "text/plain" } });
    const text = (await answer.text()).trim();
    if (!answer.ok) { say(text, true); return false; }
    if (text === "0") { say(`no matching task to ${verb}`, true); return false; }
    if (!confirm(`${verb} ${Number(text).toLocaleString()} tasks that match the filter?`)) return false;
    query.set("expected", text);
    say(`${verb}: working …`);
    await post(form, query, "/batch", () => setTimeout(() => location.reload(), 800));
    return false;
  }

  async function post(form, body, where, then) {
    form.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(where, { method: "POST", body, headers: { Accept: "text/plain" } });
      const text = (await answer.text()).trim();
      say(text, !answer.ok);
      if (answer.ok) then();
    } catch {
      say("turbo web does not answer; nothing is known of what you sent", true);
    } finally {
      form.removeAttribute("aria-busy");
    }
  }

  async function send(form, submitter) {
    if (form.hasAttribute("data-several") && !(await several(form, submitter))) return;
    if (form.id === "several") {
      const chosen = document.querySelectorAll(`input[form="several"]:checked`).length;
      if (!chosen) { say("choose some of the approvals first", true); return; }
      const verb = submitter && submitter.dataset.confirmCount;
      if (verb && !confirm(`${verb} ${chosen} ${chosen === 1 ? "call" : "calls"}?`)) return;
    }
    const asks = (submitter && submitter.dataset.confirm) || form.dataset.confirm;
    if (asks && !confirm(asks)) return;
    const where = (submitter && submitter.getAttribute("formaction")) || form.getAttribute("action");
    await post(form, new URLSearchParams(new FormData(form, submitter)), where, () => {
      form.dispatchEvent(new CustomEvent("turbo:sent", { bubbles: true }));
      if (form.id === "several") for (const box of document.querySelectorAll(`input[form="several"]:checked`)) takeAway(box.closest("[data-done]"));
      form.reset();
      const item = form.closest("[data-done]");
      if (item) takeAway(item);
    });
  }

  function focusBeside(item) {
    const beside = item.nextElementSibling || item.previousElementSibling;
    const target = (beside && beside.querySelector("a, button, input, textarea")) || document.getElementById("main");
    target.focus();
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || !form.hasAttribute("data-send")) return;
    event.preventDefault();
    send(form, event.submitter);
  });

  // ── keyboard ────────────────────────────────────────────────────────────────────────────────────────────────────

  const places = { f: "/", t: "/tasks", c: "/charts" };
  let gone = 0;

  function move(step) {
    const items = [...document.querySelectorAll("[data-item]")].filter((item) => item.offsetParent);
    if (!items.length) return;
    const now = items.findIndex((item) => item.contains(document.activeElement));
    const next = items[Math.min(items.length - 1, Math.max(0, now < 0 ? 0 : now + step))];
    (next.matches("a, button") ? next : next.querySelector("a") || next.querySelector("button, input, textarea") || next).focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox], [type=radio]), textarea, select") || document.querySelector("dialog[open]")) return;
    if (Date.now() - gone < 1200 && places[event.key]) { location.href = places[event.key]; return; }
    gone = event.key === "g" ? Date.now() : 0;
    if (event.key === "?") document.getElementById("keys").showModal();
    else if (event.key === "n") { const fresh = document.querySelector('a[href="/new"]'); if (fresh) fresh.click(); }
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "x") { const item = event.target.closest("[data-item]"); const box = item && item.querySelector("input[type=checkbox]"); if (box) box.click(); }
    else if (event.key === "/") { const field = document.querySelector("[data-filter]"); if (field) { event.preventDefault(); field.focus(); } }
  });

  // ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Calls `begin(element)` for each element that matches, now and when it comes by a live section. */
  function on(selector, begin) {
    starters.push([selector, begin]);
    for (const element of document.querySelectorAll(selector)) begin(element);
  }

  function start(root) {
    for (const [selector, begin] of starters) {
      if (root.matches(selector)) begin(root);
      for (const element of root.querySelectorAll(selector)) begin(element);
    }
  }

  on("[data-keys]", (button) => button.addEventListener("click", () => document.getElementById("keys").showModal()));
  on("[data-choose-all]", (all) => all.addEventListener("change", () => {
    for (const box of document.querySelectorAll(`input[form="${all.form.id}"][name=task]`)) box.checked = all.checked;
    const label = all.form.querySelector("[data-whole-label]");
    label.hidden = !all.checked;
    if (!all.checked) label.querySelector("input").checked = false;
  }));
  on("[data-reload]", (element) => setTimeout(() => location.reload(), Number(element.dataset.reload) * 1000));
  localTimes(document);
  tick();
  setInterval(() => { if (!document.hidden) tick(); }, 1000);
  document.addEventListener("visibilitychange", listen);
  listen();

  return { on, say, show, send };
})();
