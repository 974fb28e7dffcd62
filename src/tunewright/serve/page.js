"use strict";
const find = (id) => document.getElementById(id);
const make = (tag, text, name) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
};

const allowed = () => {
  const key = sessionStorage.getItem("tunewright-key");
  return key ? {authorization: `Bearer ${key}`} : {};
};

async function load() {
  const reply = await fetch("/", {headers: allowed()});
  if (!reply.ok) throw new Error((await reply.json()).error.message);
  return new DOMParser().parseFromString(await reply.text(), "text/html");
}

async function post(path, body) {
  const headers = {"content-type": "application/json", ...allowed()};
  const reply = await fetch(path, {method: "POST", headers, body: JSON.stringify(body)});
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.error.message);
  return content;
}

function shares(probabilities) {
  const most = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, 5);
  return most.map(([label, share]) => {
    const line = make("div", undefined, "share"), bar = make("meter");
    bar.value = share;
    bar.setAttribute("aria-label", label);
    line.append(make("span", label), bar, make("span", share.toFixed(3)));
    return line;
  });
}

function feedback(answer, asked) {
  const box = make("div", undefined, "say"), said = make("p", "", "said"), right = make("input");
  right.type = "text";
  right.placeholder = "right answer";
  right.setAttribute("aria-label", "right answer");
  said.setAttribute("role", "status");
  const buttons = ["right", "wrong", "corrected"].map((verdict) => {
    const button = make("button", verdict === "corrected" ? "correct" : verdict);
    button.type = "button";
    button.onclick = async () => {
      const body = {request_id: answer.id, verdict};
      if (answer.answer) body.answer = answer.answer;
      if (verdict === "corrected") {
        if (!right.value.trim()) return right.focus();
        body.corrected = right.value.trim();
      }
      if (find("keep").checked) for (const name of ["text", "text_pair"]) if (name in asked) body[name] = asked[name];
      try {
        await post("/v1/feedback", body);
        said.textContent = `kept: ${verdict}`;
        for (const each of box.querySelectorAll("button, input")) each.disabled = true;
      } catch (error) {
        said.textContent = error.message;
      }
    };
    return button;
  });
  box.append(buttons[0], buttons[1], right, buttons[2]);
  return [box, said];
}

async function ask(card, task, version, asked) {
  const started = performance.now();
  try {
    const found = await post(`/v1/tasks/${encodeURIComponent(task)}/predict`, {...asked, version});
    const answer = found.answers[0], shown = answer.label ?? answer.text;
    card.append(make("p", shown, "label"), ...shares(answer.probabilities ?? {}));
    card.append(make("p", `${(performance.now() - started).toFixed(0)} ms, ${answer.text_tokens} tokens${answer.num_cut ? `, ${answer.num_cut} cut` : ""}`, "said"));
    if (document.body.dataset.feedback === "yes") card.append(...feedback({id: answer.id, answer: shown}, asked));
  } catch (error) {
    card.append(make("p", error.message, "bad"));
  }
}

function start() {
  find("ask").onsubmit = async (event) => {
    event.preventDefault();
    const asked = {text: find("text").value}, button = event.target.querySelector("form > button");
    if (find("pair").value) asked.text_pair = find("pair").value;
    const [fields, choices] = ["fields", "choices"].map((id) => find(id).value.split("\n").filter((line) => line.trim()));
    if (fields.length) asked.fields = Object.fromEntries(fields.map((line) => line.split(/:(.*)/s).slice(0, 2).map((part) => part.trim())));
    if (choices.length) asked.choices = choices.map((line) => line.trim());
    const chosen = [...document.querySelectorAll("input[data-task]:checked")];
    find("answers").replaceChildren();
    if (!chosen.length) find("answers").append(make("p", "Choose a task to ask.", "bad"));
    button.disabled = true;
    await Promise.all(chosen.map(({dataset}) => {
      const card = make("article");
      card.append(make("h3", `${dataset.task}@${dataset.version}`));
      find("answers").append(card);
      return ask(card, dataset.task, Number(dataset.version), asked);
    }));
    button.disabled = false;
  };
  setInterval(refresh, 3000);
}

async function refresh() {
  if (document.hidden) return;
  try {
    const fresh = await load();
    for (const id of ["figures", "waiting"]) find(id).replaceWith(fresh.getElementById(id));
  } catch { /* the server is away; the next look may find it */ }
}

async function enter(event) {
  if (event) event.preventDefault();
  if (event) sessionStorage.setItem("tunewright-key", find("key").value.trim());
  try {
    const page = await load();
    if (!page.getElementById("ask")) return;
    document.title = page.title;
    for (const link of page.querySelectorAll("header a")) link.remove();  // a link sends no key
    document.body.replaceWith(page.body);
    start();
  } catch (error) {
    sessionStorage.removeItem("tunewright-key");
    find("refused").textContent = error.message;
  }
}

if (find("ask")) start();
else {
  find("enter").onsubmit = enter;
  if (sessionStorage.getItem("tunewright-key")) enter();
}
