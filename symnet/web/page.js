// The page: files and painted masks go to the server in one question, and its answer comes back a line for each query.
import { Painting } from "./paint.js";

const find = (selector, within = document) => within.querySelector(selector);

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A place for files: dropped on it, or chosen by a click.
function dropPlace(label, taken) {
  const input = find("input", label);
  const take = (files) => {
    if (!files.length) return;
    label.classList.add("full");
    find("span", label).textContent = [...files].map((file) => file.name).join(", ");
    taken([...files]);
  };
  input.addEventListener("change", () => take(input.files));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    label.addEventListener(kind, (event) => {
      event.preventDefault();
      label.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(input.multiple ? event.dataTransfer.files : [...event.dataTransfer.files].slice(0, 1));
    });
  }
}

class Support {
  constructor(number) {
    const root = find("#support").content.cloneNode(true).firstElementChild;
    this.image = this.mask = null;
    this.value = find(".value input", root);
    this.painting = new Painting(find(".painting", root), `tool${number}`);
    dropPlace(find(".image", root), ([file]) => {
      this.image = file;
      this.painting.show(file);
    });
    dropPlace(find(".mask", root), ([file]) => {
      this.mask = file;
      this.painting.close();
      find(".value", root).hidden = false;
    });
    find("#supports").append(root);
  }

  async sent(number) {
    if (!this.image) throw new Error(`support ${number}: drop a picture`);
    if (!this.mask && !this.painting.ready) throw new Error(`support ${number}: this browser cannot show the picture, so drop its mask`);
    const mask = this.mask ?? (await this.painting.file());
    return { image: await packed(this.image), mask: await packed(mask), value: Number(this.value.value) || null };
  }
}

async function packed(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name}: cannot be read`));
    reader.readAsDataURL(file);
  });
  return { name: file.name, content: url.slice(url.indexOf(",") + 1) };
}

function tell(text, error = false) {
  find("#told").textContent = text;
  find("#told").classList.toggle("error", error);
}

async function question() {
  const word = find("#word").value.trim();
  const size = [...supports.flatMap((one) => [one.image, one.mask]), ...queries].reduce((sum, file) => sum + (file?.size ?? 0), 0);
  const sent = [];
  for (const [i, one] of supports.entries()) sent.push(await one.sent(i + 1));
  if (!word) throw new Error("class: say in a word what the object is");
  if (!queries.length) throw new Error("queries: drop a picture to segment");
  if (size > about.largest) throw new Error(`pictures: ${size >> 20} MB in all; allowed: ${about.largest >> 20} MB at once`);
  return { supports: sent, queries: await Promise.all(queries.map(packed)), word, explain: find("#explain").checked };
}

async function* linesOf(response) {
  let rest = "";
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n");
    rest = parts.pop();
    yield* parts.map((line) => JSON.parse(line));
  }
}

function figure(url, caption, kind = "", download = "") {
  const text = download ? make("a", { href: url, download, textContent: `${caption} (save)` }) : caption;
  return make("figure", { className: kind }, make("img", { src: url, alt: caption }), make("figcaption", {}, text));
}

function showQuery(piece) {
  const stem = piece.query.replace(/\.[^.]*$/, "");
  const shown = make("div", { className: "shown" });
  for (const [output, found] of Object.entries(piece.outputs)) {
    shown.append(figure(found.overlay, `${output}: ${found.percent.toFixed(1)} % of the picture`));
    shown.append(figure(found.mask, `${output}, mask`, "", `${stem}.${output}.mask.png`));
    shown.append(figure(found.soft, `${output}, soft map`, "", `${stem}.${output}.soft.png`));
  }
  find("#results").append(make("h3", { textContent: piece.query }), shown);
  if (piece.explained) find("#results").append(figure(piece.explained, "what the model saw", "sheet", `${stem}.explained.png`));
}

async function segment() {
  const began = performance.now();
  const notes = [];
  let done = 0;
  find("#results").replaceChildren();
  find("#segment").disabled = true;
  try {
    const asked = await question();
    Object.assign(find("#progress"), { hidden: false, max: asked.queries.length, value: 0 });
    tell(`0 of ${asked.queries.length}`);
    const headers = { "Content-Type": "application/json" };
    const response = await fetch("/segment", { method: "POST", headers, body: JSON.stringify(asked) });
    if (!response.ok) throw new Error(`the server refused: ${await response.text()}`);
    for await (const piece of linesOf(response)) {
      if (piece.error) throw new Error(piece.error);
      if (piece.note) notes.push(`Note: ${piece.note}.`);
      if (piece.supports) {
        const shown = piece.supports.map((url, i) => figure(url, `support ${i + 1}, as the model got it`, "small"));
        find("#results").append(make("h2", { textContent: "Results" }), make("div", { className: "pair" }, ...shown));
      }
      if (piece.outputs) {
        showQuery(piece);
        find("#progress").value = ++done;
        tell(`${done} of ${asked.queries.length}`);
      }
    }
    if (done < asked.queries.length) throw new Error("the server broke off; where it was started it says why");
    tell([`Done: ${done} in ${((performance.now() - began) / 1000).toFixed(1)} s.`, ...notes].join(" "));
  } catch (error) {
    tell(error instanceof TypeError ? "the server does not answer; is it still running?" : error.message, true);
  } finally {
    find("#segment").disabled = false;
    find("#progress").hidden = true;
  }
}

const about = await (await fetch("/about")).json();
const supports = Array.from({ length: about.shots }, (_, i) => new Support(i));
let queries = [];

find("#run").textContent = about.run;
find("#names").append(...[...about.novel, ...about.base].map((value) => make("option", { value })));
find("#classes").textContent = `Not seen in training: ${about.novel.join(", ")}. Any other word its word vectors know will do.`;
dropPlace(find("#queries"), (files) => {
  queries = files;
  const thumb = (file) => make("li", {}, make("img", { src: URL.createObjectURL(file), alt: file.name, title: file.name }));
  find("#chosen").replaceChildren(...files.map(thumb));
});
find("#segment").addEventListener("click", segment);
find("#segment").disabled = false; // only now: a press before would be lost
