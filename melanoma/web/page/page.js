// The page of the service: pictures go to POST /explain, a few at a time, and come back as cards, highest score first.
// Whatever comes from a file or from the service is shown as text, never as markup.
"use strict";

const AT_ONCE = 2;
const MOST_RETRIES = 30;
const STATUS_WORDS = {
  melanoma: "Suspect of melanoma",
  benign: "Not suspect of melanoma",
  refer: "Refer: unclear",
  "not assessable": "Not assessable",
  error: "Could not be judged",
};
const LONGEST_NAME = 120;
const LOWEST = 0.001;
const HIGHEST = 0.99;

const find = (id) => document.getElementById(id);
const entries = []; // {file, name, card, state: waiting, asked, done; answer; asking: AbortController}
let model = null;
let loads = 0; // how often the model was asked for: only the latest reply counts
let busy = 0;
let ready = false; // once the model's facts are there, or cannot be had
let latest = null; // the entry that was answered last

// ---- what model answers ---------------------------------------------------------------------------------------------

async function loadModel(own) {
  const { prevalence } = details();
  const address = prevalence ? `model?prevalence=${encodeURIComponent(prevalence)}` : "model";
  const response = await fetch(address);
  if (!response.ok) throw new Error(await problemOf(response));
  const told = await response.json();
  if (own !== loads) return; // another prevalence was asked for meanwhile
  model = told;
  showModel();
}

function showModel() {
  find("model-name").textContent = `model ${model.name}`;
  for (const label of document.querySelectorAll(".patient")) label.hidden = !model.metadata;
  fillSelect("sex", model.sexes);
  fillSelect("site", model.sites);
  const field = find("details").elements.prevalence;
  const own = model.prevalence_of_the_data;
  if (own === null) field.closest("label").hidden = true;
  else field.placeholder = (100 * own).toFixed(1);
  find("prevalence-hint").textContent = own === null ? "" :
    `Probabilities hold where ${percent(model.prevalence)} of the lesions are melanomas. ` +
    "In another clinic the share is another: fill it in.";
  const area = model.auc;
  const interval = area.low === null ? "" : ` (${area.low.toFixed(3)} to ${area.high.toFixed(3)})`;
  find("worth").textContent = area.value === null ? "This model has no figure of its own: too few images were held out." :
    `On ${model.images.toLocaleString("en")} held-out images with ${model.melanomas.toLocaleString("en")} melanomas, ` +
    `of patients whom its networks had not seen, its AUC was ${area.value.toFixed(3)}${interval}: so often does a ` +
    "melanoma get a higher score than a benign lesion. The interval holds for patients of that dataset.";
  const [views, sizes] = [model.views.join(" or "), model.sizes_px.join(" or ")];
  const facts = [["Networks", `${model.networks}, each looking at ${views} view${views === "1" ? "" : "s"} of ${sizes} pixels`]];
  if (model.control_auc && model.control_auc.value !== null) {
    const by = model.control === "all of these" ? "the table and the files together" : model.control;
    facts.push(["Without a look at a lesion", `AUC ${model.control_auc.value.toFixed(3)}, from ${by}`]);
  }
  for (const point of model.operating_points) {
    const used = point.wanted_sensitivity === model.operating_point ? " (answers go by this one)" : "";
    facts.push([`From ${percent(point.probability)} on${used}`,
      `found ${share(point.sensitivity)} of the melanomas, passed ${share(point.specificity)} of the benign lesions`]);
  }
  if (model.refer_between) {
    facts.push(["Refer", `between ${percent(model.refer_between[0])} and ${percent(model.refer_between[1])} the score alone does not tell`]);
  }
  const gate = model.gate;
  facts.push(["Pictures turned away", gate && gate.kept ?
    `those unlike the lesions that it knows; ${percent(1 - gate.kept)} of real ones are too` :
    "none: this model had too few images to learn from what a lesion looks like"]);
  facts.push(["Licence of the weights", model.licence], ["Version", `melanoma ${model.version}, bundle ${model.sha256.slice(0, 12)}`]);
  find("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  find("limits").replaceChildren(...model.limits.map((limit) => element("li", limit)));
  find("model").hidden = false;
}

function fillSelect(name, words) {
  const select = find("details").elements[name];
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...words.map((word) => {
    const option = element("option", word);
    option.value = word;
    return option;
  }));
  select.value = chosen;
}

// ---- pictures in ----------------------------------------------------------------------------------------------------

function add(files) {
  for (const file of files) {
    const card = find("card").content.firstElementChild.cloneNode(true);
    const entry = { file, name: plain(file.name) || "pasted picture", card, state: "waiting", answer: null, asking: null };
    const title = card.querySelector("h3");
    title.textContent = entry.name;
    title.id = `lesion-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    card.setAttribute("aria-labelledby", title.id);
    card.querySelector(".badge").textContent = "Waiting";
    const remove = card.querySelector(".remove");
    remove.setAttribute("aria-label", `Remove ${entry.name}`);
    remove.addEventListener("click", () => removeEntry(entry));
    const slider = card.querySelector(".opacity");
    const over = card.querySelector(".map");
    slider.addEventListener("input", () => {
      over.style.opacity = slider.value / 100;
      slider.setAttribute("aria-valuetext", `${slider.value} % of the map`);
      card.querySelector(".note").hidden = slider.value === "0";
    });
    entries.push(entry);
    find("cards").append(card);
  }
  find("answers").hidden = entries.length === 0;
  arrange();
  work();
}

function removeEntry(entry) {
  entry.asking?.abort();
  const place = entries.indexOf(entry);
  entries.splice(place, 1);
  entry.card.remove();
  find("answers").hidden = entries.length === 0;
  arrange();
  (entries.length ? find("clear") : find("choose")).focus();
}

function details() {
  const given = {};
  const form = find("details");
  for (const field of form.elements) {
    if (!field.name || !field.value || field.closest("label").hidden || !field.checkValidity()) continue;
    given[field.name] = field.name === "prevalence" ? String(Number(field.value) / 100) : field.value;
  }
  return given;
}

// ---- answers out ----------------------------------------------------------------------------------------------------

function work() {
  while (ready && busy < AT_ONCE && find("details").checkValidity()) {
    const entry = entries.find((one) => one.state === "waiting");
    if (!entry) break;
    busy += 1;
    entry.state = "asked";
    ask(entry).finally(() => {
      busy -= 1;
      arrange();
      work();
    });
  }
  arrange();
}

// Nothing of an earlier answer stays on a card that waits for another.
function wait(entry) {
  const { card } = entry;
  entry.state = "waiting";
  entry.answer = null;
  card.classList.remove("melanoma", "benign", "refer", "error");
  card.querySelector(".sentence")?.remove();
  card.querySelector(".probability").hidden = true;
  card.querySelector(".judged").hidden = true;
  card.querySelector(".badge").textContent = "Waiting";
}

async function ask(entry) {
  const controller = new AbortController();
  entry.asking = controller;
  entry.card.querySelector(".badge").textContent = "Being judged";
  try {
    for (let attempt = 0; ; attempt += 1) {
      const body = new FormData();
      body.append("image", entry.file, entry.name);
      for (const [name, value] of Object.entries(details())) body.append(name, value);
      const response = await fetch("explain", { method: "POST", body, signal: controller.signal });
      if (response.status === 503 && attempt < MOST_RETRIES) {
        entry.card.querySelector(".badge").textContent = "The service is busy; trying again";
        const seconds = Number(response.headers.get("retry-after")) || 2;
        await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });
        if (controller.signal.aborted) return;
        continue;
      }
      if (!response.ok) throw new Error(await problemOf(response));
      const explained = await response.json();
      if (!controller.signal.aborted) show(entry, explained);
      return;
    }
  } catch (error) {
    if (controller.signal.aborted) return;
    const said = error instanceof TypeError ? "the service cannot be reached; is it still running?" : error.message;
    showError(entry, said);
  }
}

function showError(entry, sentence) {
  wait(entry);
  entry.state = "done";
  latest = entry;
  dress(entry.card, "error");
  const badge = entry.card.querySelector(".badge");
  const said = element("p", sentence.endsWith(".") ? sentence : `${sentence}.`);
  said.className = "sentence";
  badge.after(said);
}

function show(entry, explained) {
  const { card } = entry;
  const { answer } = explained;
  entry.state = "done";
  entry.answer = answer;
  latest = entry;
  dress(card, answer.status);
  card.querySelector(".sentence")?.remove();
  const picture = card.querySelector(".picture");
  picture.src = `data:image/png;base64,${explained.picture_png}`;
  picture.alt = `The picture ${entry.name}`;
  const over = card.querySelector(".map");
  over.src = `data:image/png;base64,${explained.map_png}`;
  card.querySelector(".note").textContent = explained.note;
  const judged = answer.probability !== null;
  card.querySelector(".probability").hidden = !judged;
  card.querySelector("figcaption").hidden = !judged;
  over.hidden = !judged;
  card.querySelector(".number").textContent = judged ? percent(answer.probability) : "";
  card.querySelector(".scale").replaceChildren(...(judged ? [scale(answer.probability)] : []));
  card.querySelector(".words").textContent = judged ? answer.words : "";
  card.querySelector(".quality").textContent = quality(answer);
  card.querySelector(".remarks").replaceChildren(...answer.remarks.map((remark) => element("li", remark)));
  card.querySelector(".judged").hidden = false;
}

function quality(answer) {
  const size = `${answer.width} × ${answer.height} pixels`;
  if (answer.reasons.length) return `This picture is not judged (${size}): ${answer.reasons.join("; ")}.`;
  if (!model?.gate?.kept) return `Picture quality: not checked, as this model has not learnt how (${size}).`;
  return `Picture quality: fit to be judged (${size}).`;
}

function dress(card, status) {
  card.classList.remove("melanoma", "benign", "refer", "error");
  if (status !== "not assessable") card.classList.add(status);
  card.classList.add("new");
  card.querySelector(".badge").textContent = STATUS_WORDS[status];
}

// Cards stand in the order of their scores, those without one behind; only a card that is out of place is moved.
function arrange() {
  const height = (entry) => (entry.answer?.score ?? (entry.state === "done" ? -2 : -1));
  const ordered = [...entries].sort((one, other) => height(other) - height(one));
  const cards = find("cards");
  const focused = document.activeElement;
  ordered.forEach((entry, place) => {
    if (cards.children[place] !== entry.card) cards.insertBefore(entry.card, cards.children[place] ?? null);
  });
  if (focused !== document.activeElement && focused?.isConnected) focused.focus();
  cards.classList.toggle("one", entries.length === 1);
  const ranked = ordered.filter((entry) => entry.answer?.score != null);
  for (const entry of entries) {
    const rank = ranked.indexOf(entry);
    entry.card.querySelector(".rank").textContent =
      rank >= 0 && ranked.length > 1 ? `${rank + 1} of ${ranked.length}, highest score first` : "";
  }
  const done = entries.filter((entry) => entry.state === "done");
  const failed = done.filter((entry) => entry.card.classList.contains("error")).length;
  const turned = done.filter((entry) => entry.answer?.status === "not assessable").length;
  const parts = [`${done.length} of ${entries.length} answered`];
  if (failed) parts.push(`${failed} could not be read`);
  if (turned) parts.push(`${turned} not assessable`);
  const heard = entries.includes(latest) && latest.state === "done" ? ` ${spoken(latest)}` : "";
  const progress = `${parts.join(", ")}.${heard}`;
  if (find("progress").textContent !== progress) find("progress").textContent = progress;
}

// What a screen reader is told of a card.
function spoken({ card, answer }) {
  const number = answer && answer.probability !== null ? `, ${percent(answer.probability)}` : "";
  return `${card.querySelector("h3").textContent}: ${card.querySelector(".badge").textContent}${number}.`;
}

// ---- the scale: probabilities by their odds, with the operating points and where to refer ---------------------------

function scale(probability) {
  const width = 340;
  const [left, right, line] = [14, width - 14, 46];
  const odds = (share) => Math.log(share / (1 - share));
  const [low, high] = [odds(LOWEST), odds(HIGHEST)];
  const at = (share) => {
    const kept = Math.min(Math.max(share, LOWEST), HIGHEST);
    return left + ((odds(kept) - low) / (high - low)) * (right - left);
  };
  const svg = drawn("svg", { viewBox: `0 0 ${width} 100`, role: "img" });
  const told = [`Scale of probabilities: this picture at ${percent(probability)}.`];
  if (model?.refer_between) {
    const [from, upto] = model.refer_between.map(at);
    svg.append(drawn("rect", { class: "zone", x: from, y: line - 9, width: Math.max(upto - from, 1), height: 18 }));
    const label = drawn("text", { x: (from + upto) / 2, y: line - 24, "text-anchor": "middle" }, "refer");
    svg.append(label);
    told.push(`Refer between ${percent(model.refer_between[0])} and ${percent(model.refer_between[1])}.`);
  }
  svg.append(drawn("line", { class: "axis", x1: left, x2: right, y1: line, y2: line }));
  for (const share of [0.001, 0.01, 0.1, 0.5, 0.9, 0.99]) {
    svg.append(drawn("line", { class: "tick", x1: at(share), x2: at(share), y1: line - 4, y2: line + 4 }));
    svg.append(drawn("text", { x: at(share), y: line + 34, "text-anchor": "middle" }, `${100 * share} %`));
  }
  for (const point of model?.operating_points ?? []) {
    const used = point.wanted_sensitivity === model.operating_point;
    const place = at(point.probability);
    svg.append(drawn("line", { class: used ? "point used" : "point", x1: place, x2: place, y1: line - 12, y2: line + 12 }));
    told.push(`The point that found ${share(point.sensitivity)} of the melanomas lies at ${percent(point.probability)}.`);
    if (used) svg.append(drawn("text", { x: place, y: line + 50, "text-anchor": "middle" }, "operating point"));
  }
  const here = at(probability);
  svg.append(drawn("path", { class: "here", d: `M ${here} ${line - 3} l -7 -13 h 14 z` }));
  svg.setAttribute("aria-label", told.join(" "));
  return svg;
}

// ---- small things ---------------------------------------------------------------------------------------------------

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

// A file's name as one short line: no letter of it breaks lines or turns others round.
function plain(name) {
  return name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "?").slice(0, LONGEST_NAME);
}

function drawn(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function percent(share) {
  if (share < 0.001) return "under 0.1 %";
  if (share > 0.999) return "over 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}

function share(figure) {
  const whole = (value) => (100 * value).toFixed(0);
  const between = figure.low === null ? "" : ` (${whole(figure.low)} to ${whole(figure.high)})`;
  return `${whole(figure.value)} %${between}`;
}

async function problemOf(response) {
  try {
    return (await response.json()).detail || `the service answered ${response.status}`;
  } catch {
    return `the service answered ${response.status}`;
  }
}

// ---- what people do -------------------------------------------------------------------------------------------------

find("choose").addEventListener("click", () => find("files").click());
find("photograph").addEventListener("click", () => find("camera").click());
for (const input of [find("files"), find("camera")]) {
  input.addEventListener("change", () => {
    add([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  });
}
find("clear").addEventListener("click", () => {
  for (const entry of entries.splice(0)) {
    entry.asking?.abort();
    entry.card.remove();
  }
  find("answers").hidden = true;
  find("choose").focus();
});
find("details").addEventListener("submit", (event) => event.preventDefault());
find("details").addEventListener("change", () => {
  for (const entry of entries) {
    entry.asking?.abort();
    wait(entry);
  }
  arrange();
  if (find("details").reportValidity()) begin();
});
document.addEventListener("paste", (event) => add([...(event.clipboardData?.files ?? [])]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
for (const name of ["dragleave", "drop", "dragend"]) {
  document.addEventListener(name, () => find("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  add([...(event.dataTransfer?.files ?? [])]);
});

async function begin() {
  ready = false;
  loads += 1;
  const own = loads;
  let trouble = "";
  try {
    await loadModel(own);
  } catch (error) {
    trouble = `The model's facts cannot be had: ${error.message}`;
  }
  if (own !== loads) return; // another reply decides
  find("trouble").textContent = trouble;
  find("trouble").hidden = trouble === "";
  ready = true;
  work();
}

begin();
