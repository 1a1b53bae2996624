// A mask painted over a picture, at the picture's own resolution.
const COLOUR = "#d6008c";

export class Painting {
  constructor(root, name) {
    this.root = root;
    this.ready = false;
    this.image = root.querySelector("img");
    this.canvas = root.querySelector("canvas");
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.size = root.querySelector("input[type=range]");
    this.stroke = [];
    for (const radio of root.querySelectorAll("input[type=radio]")) radio.name = name;
    root.querySelector(".clear").addEventListener("click", () => this.clear());
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.stroke.length && this.go(event));
    for (const kind of ["pointerup", "pointercancel"]) this.canvas.addEventListener(kind, () => this.end());
  }

  show(file) {
    this.ready = false;
    this.root.hidden = true;
    this.image.onload = () => {
      this.canvas.width = this.image.naturalWidth;
      this.canvas.height = this.image.naturalHeight;
      this.ready = true;
      this.root.hidden = this.closed;
    };
    this.image.src = URL.createObjectURL(file);
  }

  close() {
    this.closed = this.root.hidden = true;
  }

  clear() {
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  get tool() {
    return this.root.querySelector("input[type=radio]:checked").value;
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * this.canvas.width) / box.width, ((event.clientY - box.top) * this.canvas.height) / box.height];
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const width = (this.size.value / 100) * Math.max(this.canvas.width, this.canvas.height);
    const mode = this.tool === "erase" ? "destination-out" : "source-over";
    const thin = this.tool === "outline" ? 0.2 : 1;
    Object.assign(this.pen, { strokeStyle: COLOUR, fillStyle: COLOUR, lineCap: "round", lineJoin: "round", globalCompositeOperation: mode });
    this.pen.lineWidth = Math.max(1, width * thin);
    this.stroke = [this.at(event)];
    this.go(event);
  }

  go(event) {
    const last = this.stroke.at(-1);
    this.stroke.push(this.at(event));
    this.pen.beginPath();
    this.pen.moveTo(...last);
    this.pen.lineTo(...this.stroke.at(-1));
    this.pen.stroke();
  }

  end() {
    if (this.tool === "outline" && this.stroke.length) {
      this.pen.beginPath();
      for (const point of this.stroke) this.pen.lineTo(...point);
      this.pen.fill();
    }
    this.stroke = [];
  }

  // White on black, as a PNG.
  async file() {
    const pixels = this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.fill(pixels.data[i + 3] > 127 ? 255 : 0, i, i + 3);
      pixels.data[i + 3] = 255;
    }
    const canvas = new OffscreenCanvas(pixels.width, pixels.height);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return new File([await canvas.convertToBlob()], "painted");
  }
}
