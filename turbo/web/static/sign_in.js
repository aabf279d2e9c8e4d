// Signs in with the key behind `#` of a link, which no browser sends anywhere by itself.
"use strict";

(async () => {
  const key = location.hash.slice(1);
  if (key) {
    history.replaceState(null, "", location.pathname);
    const answer = await fetch("/sign-in", { method: "POST", body: new URLSearchParams({ key }), redirect: "manual" });
    if (answer.type === "opaqueredirect") location.replace("/");
    else document.getElementById("refused").textContent = await answer.text();
    return;
  }
  // A link from another site brings no SameSite=Strict cookie, a page that this one asks for does.
  if (location.pathname !== "/sign-in" && (await fetch("/signed-in")).ok) location.replace(location.href);
})();
