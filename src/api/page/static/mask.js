// Painting a mask over a picture: white where it is painted anew, black elsewhere, of the same size.

import { h } from "./dom.js";

const OVER = "#e0480a"; // seen on dark and on light pictures
const OPACITY = 0.6;
const MOST_SHOWN = 1024; // pixels of a side on the screen

/** A painter for a picture's file: `{element, painted, file()}`. `changed` is called after each stroke. */
export async function maskPainter(file, changed) {
  return new Painter(await createImageBitmap(file), changed);
}

class Painter {
  constructor(picture, changed) {
    const { width, height } = picture;
    this.picture = picture;
    this.changed = changed;
    this.strokes = []; // {radius, points}, in pixels of the picture
    this.layer = new OffscreenCanvas(width, height); // what was painted, in one colour on nothing
    this.at = { x: width / 2, y: height / 2 };
    this.view = Math.min(1, MOST_SHOWN / Math.max(width, height));
    this.canvas = h("canvas", { tabIndex: 0, role: "application", "aria-label": "Paint what is drawn anew. Arrow keys move the brush, space paints.",
      onpointerdown: (event) => this.press(event), onpointermove: (event) => this.move(event), onpointerup: () => this.changed(),
      onpointerleave: () => this.draw(), onkeydown: (event) => this.key(event), onfocus: () => this.draw(), onblur: () => this.draw() });
    this.canvas.width = Math.round(width * this.view);
    this.canvas.height = Math.round(height * this.view);
    this.brush = h("input", { type: "range", min: 1, max: 50, value: 12, oninput: () => this.draw(true) });
    this.undo = h("button", { type: "button", onclick: () => this.keep(this.strokes.slice(0, -1)) }, "Undo");
    this.clear = h("button", { type: "button", onclick: () => this.keep([]) }, "Clear");
    this.element = h("div", { className: "mask" },
      h("p", { className: "dim" }, "Paint over what is to be drawn anew. The rest stays."),
      this.canvas,
      h("div", { className: "brush" }, h("label", {}, "Brush ", this.brush), this.undo, this.clear));
    this.keep([]);
  }

  get painted() {
    return this.strokes.length > 0;
  }

  get radius() {
    return (Math.max(this.picture.width, this.picture.height) * this.brush.value) / 200;
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.go(event);
    this.begin();
  }

  move(event) {
    this.go(event);
    const stroke = this.strokes.at(-1);
    if (event.buttons && stroke) {
      stroke.points.push({ ...this.at });
      paint(this.layer, { ...stroke, points: stroke.points.slice(-2) }, OVER);
    }
    this.draw(true);
  }

  /** To where the pointer is. The picture may have bars beside it in its element. */
  go({ clientX, clientY }) {
    const { width, height } = this.picture;
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height);
    this.at.x = (clientX - box.left - (box.width - width * scale) / 2) / scale;
    this.at.y = (clientY - box.top - (box.height - height * scale) / 2) / scale;
  }

  key(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const { width, height } = this.picture;
    if (by) {
      this.at.x = Math.min(width, Math.max(0, this.at.x + (by[0] * this.radius) / 2));
      this.at.y = Math.min(height, Math.max(0, this.at.y + (by[1] * this.radius) / 2));
      this.draw();
    } else if (event.key === " ") this.begin();
    else return;
    event.preventDefault();
  }

  /** A stroke from here. */
  begin() {
    this.keep([...this.strokes, { radius: this.radius, points: [{ ...this.at }] }]);
  }

  /** Show these strokes, and no others. */
  keep(strokes) {
    this.strokes = strokes;
    this.layer.getContext("2d").clearRect(0, 0, this.layer.width, this.layer.height);
    for (const stroke of strokes) paint(this.layer, stroke, OVER);
    this.draw(this.painted);
    if (!this.painted && this.element.contains(document.activeElement)) this.canvas.focus(); // the button ends here
    this.undo.disabled = this.clear.disabled = !this.painted;
    this.changed();
  }

  draw(pointing = document.activeElement === this.canvas) {
    const context = this.canvas.getContext("2d");
    context.setTransform(this.view, 0, 0, this.view, 0, 0);
    context.drawImage(this.picture, 0, 0);
    context.globalAlpha = OPACITY;
    context.drawImage(this.layer, 0, 0);
    context.globalAlpha = 1;
    if (pointing) this.ring(context);
  }

  /** The brush, in two colours: one of them is seen on every ground. */
  ring(context) {
    const thin = Math.max(this.picture.width, this.picture.height) / 256;
    for (const [color, lineWidth] of [["#000", 3 * thin], ["#fff", thin]]) {
      Object.assign(context, { strokeStyle: color, lineWidth });
      context.beginPath();
      context.arc(this.at.x, this.at.y, this.radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  async file() {
    const whole = new OffscreenCanvas(this.picture.width, this.picture.height);
    const context = whole.getContext("2d");
    context.fillStyle = "black";
    context.fillRect(0, 0, whole.width, whole.height);
    for (const stroke of this.strokes) paint(whole, stroke, "white");
    return new File([await whole.convertToBlob()], "mask.png", { type: "image/png" });
  }
}

function paint(canvas, { radius, points }, color) {
  const context = canvas.getContext("2d");
  Object.assign(context, { fillStyle: color, strokeStyle: color, lineWidth: 2 * radius, lineCap: "round", lineJoin: "round" });
  context.beginPath();
  context.arc(points[0].x, points[0].y, radius, 0, 2 * Math.PI);
  context.fill();
  context.beginPath();
  for (const { x, y } of points) context.lineTo(x, y);
  context.stroke();
}
