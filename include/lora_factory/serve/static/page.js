"use strict";
const $ = (id) => document.getElementById(id);
let token = null;

function user() {
  let id = localStorage.getItem("user");
  if (!id) localStorage.setItem("user", (id = crypto.randomUUID()));
  return id;
}

async function call(path, body) {
  const options = body && {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  // Kept in the page only: a key in storage is there for whoever opens the browser next.
  if (options && $("key").value) options.headers.authorization = `Bearer ${$("key").value}`;
  const answer = await fetch(path, options);
  if (answer.status === 401) $("keyed").hidden = false;
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error);
  return data;
}

async function list() {
  const { adapters } = await call("/v1/adapters");
  for (const { name, version, trigger } of adapters) {
    const option = new Option(`${name} (${version})`, name);
    option.dataset.trigger = trigger;
    $("adapter").add(option);
  }
  if (!adapters.length) $("message").textContent = "No LoRA is deployed yet.";
}

async function draw(event) {
  event.preventDefault();
  const chosen = $("adapter").selectedOptions[0];
  const prompt = $("prompt").value;
  const seed = $("seed").value ? Number($("seed").value) : Math.floor(Math.random() * 2 ** 32);
  const trigger = chosen.dataset.trigger;
  const withTrigger = prompt.includes(trigger) ? prompt : `${trigger}, ${prompt}`;
  $("message").textContent = "Drawing…";
  $("rate").hidden = true;
  // Asked for at once: both are drawn in one batch.
  const [base, lora] = await Promise.all([
    call("/v1/generate", { prompt, seed }),
    call("/v1/generate", { prompt: withTrigger, seed, adapter: chosen.value }),
  ]);
  $("base").src = "data:image/png;base64," + base.image;
  $("lora").src = "data:image/png;base64," + lora.image;
  $("caption").textContent = `${lora.adapter} ${lora.version}, seed ${seed}`;
  $("message").textContent = "";
  token = lora.rating_token;
  $("pair").hidden = false;
  $("rate").hidden = token === null;
}

async function rate(event) {
  const rating = Number(event.target.dataset.rating);
  await call("/v1/feedback", { rating_token: token, rating, user: user() });
  $("rate").hidden = true;
  $("message").textContent = "Thank you.";
}

const say = (action) => (event) =>
  action(event).catch((error) => { $("message").textContent = error.message; });
$("form").addEventListener("submit", say(draw));
for (const button of document.querySelectorAll("#rate button")) {
  button.addEventListener("click", say(rate));
}
say(list)();
