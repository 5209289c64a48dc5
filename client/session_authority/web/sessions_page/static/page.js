// Show times in the viewer's time zone, and log out devices without leaving the page.
// Every form also works without this script.
"use strict";
(() => {
  const { lang } = document.documentElement;
  const byId = (id) => document.getElementById(id);
  let main = document.querySelector("main");
  const skew = Date.parse(main.dataset.now) - Date.now();

  // Only the browser knows the viewer's time zone.
  const exact = new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "long" });
  const short = new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "short" });
  const relative = new Intl.RelativeTimeFormat(lang, { numeric: "always" });
  // Each unit with its length in ms, and its largest count. language.py has the same table.
  const units = [["year", 31536e6], ["month", 2592e6, 11], ["week", 6048e5], ["day", 864e5], ["hour", 36e5], ["minute", 6e4]];
  const ago = (time) => {
    const passed = Date.now() + skew - time;
    const unit = units.find(([, length]) => passed >= length);
    if (!unit) return main.dataset.justNow;
    return relative.format(-Math.min(Math.floor(passed / unit[1]), unit[2] || Infinity), unit[0]);
  };
  const writeTimes = () => {
    for (const element of main.querySelectorAll("time")) {
      const time = new Date(element.dateTime);
      element.textContent = element.dataset.kind === "ago" ? ago(time) : short.format(time);
      if (element.className === "when") element.nextElementSibling.textContent = exact.format(time);
    }
  };
  writeTimes();
  setInterval(writeTimes, 6e4);
  document.addEventListener("keydown", (event) => main.classList.toggle("no-tips", event.key === "Escape"));
  document.addEventListener("pointerover", () => main.classList.remove("no-tips"));

  // A page from the browser's history may be out of date, and the viewer may be signed out.
  addEventListener("pageshow", (event) => event.persisted && location.reload());

  // Screen readers read the notice when its text changes. A reload must not repeat the notice.
  const say = (text) => {
    byId("notice").textContent = "";
    setTimeout(() => (byId("notice").textContent = text), 100);
  };
  if (byId("notice")?.textContent) {
    history.replaceState(null, "", main.dataset.here);
    say(byId("notice").textContent);
  }

  // The time and address of the last activity, to tell devices of the same name apart.
  const which = (form) => {
    const line = form.closest(".row")?.querySelector(".seen").cloneNode(true);
    line?.querySelectorAll(".tip").forEach((tip) => tip.remove());
    line?.querySelectorAll("time").forEach((time) => time.replaceWith(time.textContent));
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

  let asking = null;
  const idOf = (row) => row.querySelector("[name=session_id]")?.value;
  const buttons = () => [...main.querySelectorAll("#elsewhere .row form button")].filter((each) => !each.closest("details:not([open])"));

  // Load the page again, and show its new content. Keep rows that show an error, wait for an answer, or are
  // in the dialog.
  const refresh = async (form, message) => {
    const place = buttons().indexOf(form.querySelector("button"));
    const gone = "all" in form.dataset ? main.querySelectorAll("#elsewhere .row") : [form.closest(".row")];
    gone.forEach((row) => row.classList.add("leaving"));
    const [response] = await Promise.all([fetch(main.dataset.here, { signal: AbortSignal.timeout(2e4) }), new Promise((done) => setTimeout(done, 260))]);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("main");
    const notice = fresh?.querySelector("#notice");
    if (!response.ok || !notice) return location.assign(main.dataset.root);
    gone.forEach((row) => row.remove());
    const rows = new Map([...fresh.querySelectorAll("#elsewhere .row")].map((row) => [idOf(row), row]));
    const kept = [...main.querySelectorAll("#elsewhere .row:is(.busy, :has(.error))"), asking?.closest("#elsewhere .row")];
    kept.forEach((row) => row && rows.get(idOf(row))?.replaceWith(row));
    const open = [...main.querySelectorAll("details[open]")].map((group) => group.dataset.device);
    fresh.querySelectorAll("details").forEach((group) => (group.open = open.includes(group.dataset.device)));
    notice.replaceWith(byId("notice"));
    main.replaceWith(fresh);
    main = fresh;
    history.replaceState(null, "", main.dataset.here);
    writeTimes();
    say(message);
    (buttons()[place] || buttons().at(-1) || byId("alone"))?.focus();
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
      refresh(form, answer.message).catch(() => location.assign(main.dataset.here));
    } else if (answer.outcome === "signed_out" || answer.outcome === "reauthenticate") location.assign(main.dataset.root);
    else fail(form, answer.message);
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.sending) return event.preventDefault();
    if (event.submitter?.hasAttribute("formaction")) return; // opens the page with the form for a name
    if (!form.dataset.title) return form.dataset.busy && busy(form, true);
    event.preventDefault();
    const name = form.querySelector("button").getAttribute("aria-label");
    if (name && !form.dataset.name) form.dataset.name = name;
    asking = form;
    byId("ask-title").textContent = form.dataset.title;
    byId("ask-which").replaceChildren(...which(form));
    byId("ask-text").textContent = form.dataset.text;
    byId("ask").showModal();
  });
  document.addEventListener("click", (event) => {
    if (event.target.id !== "ask-no" && event.target.id !== "ask-yes") return;
    byId("ask").close();
    if (event.target.id === "ask-yes") send(asking);
  });
})();
