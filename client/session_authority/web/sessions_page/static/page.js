// What the page does better with a script: times in the viewer's own zone, and logging out in place.
// Without it every form works too.
"use strict";
(() => {
  const main = document.querySelector("main");
  const { lang } = document.documentElement;
  const skew = Date.parse(main.dataset.now) - Date.now();
  const byId = (id) => document.getElementById(id);

  // Times. Only the browser knows its zone, and when that zone changes its clocks.
  const exact = new Intl.DateTimeFormat(lang, { dateStyle: "full", timeStyle: "long" });
  const short = new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "short" });
  const relative = new Intl.RelativeTimeFormat(lang, { numeric: "always" });
  // Whole units, and how many at most: as in language.py.
  const units = [["year", 31536e6], ["month", 2592e6, 11], ["week", 6048e5], ["day", 864e5], ["hour", 36e5], ["minute", 6e4]];
  const ago = (time) => {
    const passed = Date.now() + skew - time;
    const unit = units.find(([, length]) => passed >= length);
    if (!unit) return main.dataset.justNow;
    return relative.format(-Math.min(Math.floor(passed / unit[1]), unit[2] || Infinity), unit[0]);
  };
  const times = [...document.querySelectorAll("time[data-kind]")];
  const tell = () => times.forEach((element) => {
    const time = new Date(element.dateTime);
    element.textContent = element.dataset.kind === "ago" ? ago(time) : short.format(time);
  });
  times.forEach((element) => {
    byId(element.parentElement.getAttribute("aria-describedby")).textContent = exact.format(new Date(element.dateTime));
  });
  tell();
  setInterval(tell, 6e4);
  document.addEventListener("keydown", (event) => main.classList.toggle("no-tips", event.key === "Escape"));
  document.addEventListener("pointerover", () => main.classList.remove("no-tips"));

  // A page that the browser kept may show what is no longer so, to somebody who has signed out.
  addEventListener("pageshow", (event) => event.persisted && location.reload());

  // The notice is said once: a reload doesn't repeat it. Set anew, it is read out.
  const notice = byId("notice");
  const say = (text) => {
    notice.textContent = "";
    setTimeout(() => (notice.textContent = text), 100);
  };
  if (notice && notice.textContent) {
    history.replaceState(null, "", location.pathname);
    say(notice.textContent);
  }

  const ask = byId("ask");
  let asking = null;

  // When and from where: of several devices with one name, which is it?
  const which = (form) => {
    const line = form.closest(".row")?.querySelector(".about p:not(.actor)").cloneNode(true);
    line?.querySelectorAll(".tip").forEach((tip) => tip.remove());
    line?.querySelectorAll(".when").forEach((button) => button.replaceWith(button.textContent));
    return line ? line.childNodes : [];
  };

  const busy = (form, on) => {
    const button = form.querySelector("button");
    form.dataset.sending = on ? "yes" : "";
    button.setAttribute("aria-disabled", String(on));
    (form.closest(".row") || form).classList.toggle("busy", on);
    if (on) {
      button.removeAttribute("aria-label");
      button.textContent = form.dataset.busy;
    }
  };

  const fail = (form, message) => {
    const place = form.parentElement;
    const button = form.querySelector("button");
    const name = form.dataset.name;
    busy(form, false);
    button.textContent = form.dataset.again;
    if (name) button.setAttribute("aria-label", `${form.dataset.again}: ${name}`);
    const error = place.querySelector(".error") || place.appendChild(document.createElement("p"));
    error.className = "error";
    error.setAttribute("role", "alert");
    error.textContent = message;
  };

  const remove = (form) => {
    const list = byId("elsewhere").querySelector(".list");
    const rows = "all" in form.dataset ? [...list.children] : [form.closest(".row")];
    const next = rows[0].nextElementSibling || rows[0].previousElementSibling;
    rows.forEach((row) => row.classList.add("leaving"));
    setTimeout(() => {
      rows.forEach((row) => row.remove());
      if (list.children.length) (next || byId("others")).querySelector("form button").focus();
      else if (document.querySelector(".pages")) location.assign(main.dataset.root);
      else {
        byId("elsewhere").remove();
        byId("alone").hidden = false;
        byId("alone").focus();
      }
    }, 260);
  };

  const send = async (form) => {
    form.parentElement.querySelector(".error")?.remove();
    const fields = new URLSearchParams(new FormData(form));
    fields.set("confirmed", "yes");
    busy(form, true);
    let answer;
    try {
      const response = await fetch(form.action, {
        method: "POST",
        headers: { Accept: "application/json" },
        body: fields,
        signal: AbortSignal.timeout(2e4),
      });
      answer = await response.json();
    } catch {
      return fail(form, main.dataset.offline);
    }
    if (answer.outcome === "done" || answer.outcome === "gone") {
      say(answer.message);
      remove(form);
    } else if (answer.outcome === "signed_out" || answer.outcome === "reauthenticate") location.assign(main.dataset.root);
    else fail(form, answer.message);
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.sending) return event.preventDefault();
    if (!form.dataset.title) return form.dataset.busy && busy(form, true);
    event.preventDefault();
    const name = form.querySelector("button").getAttribute("aria-label");
    if (name && !form.dataset.name) form.dataset.name = name;
    asking = form;
    byId("ask-title").textContent = form.dataset.title;
    byId("ask-which").replaceChildren(...which(form));
    byId("ask-text").textContent = form.dataset.text;
    ask.showModal();
  });
  byId("ask-no")?.addEventListener("click", () => ask.close());
  byId("ask-yes")?.addEventListener("click", () => {
    ask.close();
    send(asking);
  });
})();
