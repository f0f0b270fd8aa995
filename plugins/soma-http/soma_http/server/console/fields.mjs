// Fields of a form: data that is typed, dropped or drawn from a recording, and charts that move.

import { DATATYPES, imageOf, inputOf, parseCsv, parseNpy, points } from "./shaping.mjs";

const KEPT = 120; // samples of a chart
const FIELDS = ["name", "datatype", "shape", "data"];
const template = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

export function made(tag, text, parent) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

/** A field for data. `draw` gives an array of the recording that is open. */
export function dataField({ name, datatype, shape }, draw) {
  const fieldset = template("input");
  const of = (selector) => fieldset.querySelector(selector);
  of("legend").textContent = `${name}: ${datatype} [${shape.map((length) => (length < 0 ? "any" : length))}]`;
  for (const known of DATATYPES) made("option", known, of(".datatype"));
  of(".name").value = name;
  of(".datatype").value = datatype;
  of(".shape").value = shape.map((length) => (length < 0 ? 1 : length)).join(", ");

  async function take(source, reading, keeps) {
    try {
      const found = await reading();
      if (!keeps) of(".datatype").value = found.datatype;
      of(".shape").value = found.shape.join(", ");
      of(".data").value = JSON.stringify(found.data).slice(1, -1);
      of(".data").setCustomValidity("");
    } catch (error) {
      of(".data").setCustomValidity(`${source}: ${error.message}`);
      of(".data").reportValidity();
    }
  }

  const takeFile = (file) => file && take(file.name, () => read(file), /\.(csv|txt)$/.test(file.name));
  of(".data").addEventListener("input", () => of(".data").setCustomValidity(""));
  of(".file").addEventListener("change", () => takeFile(of(".file").files[0]));
  of(".draw").addEventListener("click", () => take("the recording", async () => draw(name), false));
  droppable(fieldset, takeFile);
  return fieldset;
}

/** Has an element take files that are dropped on it. */
export function droppable(place, take) {
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    place.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

/** What stands in a field for data, as an input of a request. */
export const inputIn = (fieldset) => inputOf(Object.fromEntries(FIELDS.map((key) => [key, fieldset.querySelector(`.${key}`).value])));

async function read(file) {
  if (file.name.endsWith(".npy")) return parseNpy(await file.arrayBuffer());
  if (!file.type.startsWith("image/")) return parseCsv(await file.text());
  const image = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(image.width, image.height);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  return imageOf(pen.getImageData(0, 0, image.width, image.height));
}

/** A line through the last numbers, filled below, with the newest as text. */
export class Chart {
  constructor(title, spell, place) {
    const figure = template("chart");
    place.append(figure);
    figure.querySelector("span").textContent = title;
    Object.assign(this, { title, spell, numbers: [] });
    this.value = figure.querySelector("b");
    this.svg = figure.querySelector("svg");
    this.line = figure.querySelector("polyline");
    this.area = figure.querySelector("polygon");
  }

  add(number) {
    this.numbers = [...this.numbers, number].slice(-KEPT);
    return this;
  }

  draw() {
    if (!this.numbers.length) return;
    this.value.textContent = this.spell(this.numbers.at(-1));
    const line = points(this.numbers, KEPT);
    this.line.setAttribute("points", line);
    this.area.setAttribute("points", `${line.slice(0, line.indexOf(","))},30 ${line} 100,30`);
    this.svg.setAttribute("aria-label", `${this.title}: ${this.value.textContent}`);
  }
}
