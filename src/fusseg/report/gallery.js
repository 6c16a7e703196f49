// The gallery: a slider through the layers of each image, filters, order, one color at a time.
(() => {
  const list = document.getElementById("gallery-cards");
  if (!list) return;
  const control = (name) => document.getElementById(`gallery-${name}`);
  const cards = [...list.children];
  const STEP = 100; // slider values from one layer to the next

  const layersOf = (card) => [...card.querySelectorAll(".layer")];
  const nameOf = (layer) => layer.querySelector("figcaption").textContent;

  const show = (card) => {
    const layers = layersOf(card);
    const slider = card.querySelector(".wipe");
    const value = Number(slider.value);
    // the upper of the two layers that the value lies between
    const upper = Math.min(Math.floor(value / STEP) + 1, layers.length - 1);
    const part = value - STEP * (upper - 1);
    const fades = control("mode").value === "fade";
    const stacked = control("view").value === "slider";
    layers.forEach((layer, place) => {
      const isUpper = place === upper;
      layer.classList.toggle("upper", isUpper);
      layer.style.visibility = !stacked || isUpper || place === upper - 1 ? "" : "hidden";
      layer.style.clipPath = stacked && isUpper && !fades ? `inset(0 ${100 - part}% 0 0)` : "";
      layer.style.opacity = stacked && isUpper && fades ? part / 100 : "";
    });
    const edge = card.querySelector(".edge");
    edge.style.left = `${part}%`;
    edge.hidden = !stacked || fades || part === 0 || part === 100;
    const [below, above] = [nameOf(layers[upper - 1]), nameOf(layers[upper])];
    const text = part === 0 ? below : part === 100 ? above : `${part} % ${above} over ${below}`;
    slider.setAttribute("aria-valuetext", text);
    for (const [place, stop] of [...card.querySelectorAll(".stop")].entries()) {
      stop.setAttribute("aria-pressed", String(value === STEP * place));
    }
  };

  const slide = (card, value) => {
    card.querySelector(".wipe").value = value;
    show(card);
  };

  // Where two edges could be meant, at a layer shown whole, the nearer one is taken.
  const grabbed = (value, part, last) => {
    if (value % STEP > 0) return Math.floor(value / STEP);
    const place = value / STEP;
    return Math.max(0, Math.min(part < 0.5 ? place : place - 1, last - 1));
  };

  const addDragging = (card, stage, last) => {
    let pair = null;
    const partAt = (event) => {
      const box = stage.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    };
    const move = (event) => slide(card, Math.round(STEP * (pair + partAt(event))));
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || control("view").value !== "slider") return;
      pair = grabbed(Number(card.querySelector(".wipe").value), partAt(event), last);
      stage.setPointerCapture(event.pointerId);
      move(event);
    });
    stage.addEventListener("pointermove", (event) => { if (pair !== null) move(event); });
    for (const end of ["pointerup", "pointercancel"]) {
      stage.addEventListener(end, () => { pair = null; });
    }
  };

  const addSlider = (card) => {
    const stage = card.querySelector(".stage");
    const layers = layersOf(card);
    const edge = document.createElement("span");
    edge.className = "edge";
    stage.append(edge);
    const slider = document.createElement("input");
    const max = STEP * (layers.length - 1);
    Object.assign(slider, { type: "range", min: 0, max, step: 5, value: STEP / 2, className: "wipe" });
    slider.setAttribute("aria-label", `Layer of ${card.dataset.stem}`);
    slider.addEventListener("input", () => show(card));
    const stops = document.createElement("div");
    stops.className = "stops";
    layers.forEach((layer, place) => {
      const stop = document.createElement("button");
      Object.assign(stop, { type: "button", className: "stop", textContent: nameOf(layer) });
      stop.addEventListener("click", () => slide(card, STEP * place));
      stops.append(stop);
    });
    const bar = document.createElement("div");
    bar.className = "slide";
    bar.append(slider, stops);
    stage.after(bar);
    for (const image of stage.querySelectorAll("img")) image.draggable = false;
    addDragging(card, stage, layers.length - 1);
  };

  // cards without a score come last in either order
  const score = (card, missing) => (card.dataset.score === "" ? missing : Number(card.dataset.score));
  const byText = (left, right) => (left < right ? -1 : left > right ? 1 : 0);
  const byName = (left, right) =>
    byText(left.dataset.site, right.dataset.site) || byText(left.dataset.stem, right.dataset.stem);
  const orders = {
    worst: (left, right) => score(left, 2) - score(right, 2) || byName(left, right),
    best: (left, right) => score(right, -1) - score(left, -1) || byName(left, right),
    name: byName,
  };

  const arrange = () => {
    const site = control("site").value;
    const limit = Number(control("limit")?.value ?? 100);
    list.append(...cards.sort(orders[control("sort").value]));
    for (const card of cards) {
      const low = limit === 100 || score(card, 2) <= limit / 100;
      card.hidden = (site !== "" && card.dataset.site !== site) || !low;
    }
    if (control("limit")) control("limit-value").value = (limit / 100).toFixed(2);
    const shown = cards.filter((card) => !card.hidden).length;
    control("count").value = `${shown} of ${cards.length} shown`;
  };

  const view = () => {
    const stacked = control("view").value === "slider";
    list.className = stacked ? "stacked" : "";
    for (const name of ["mode", "all"]) control(name).disabled = !stacked;
    cards.forEach(show);
  };

  // One color at a time: everything else is dimmed, so that no color need be told from another.
  const dim = async (layer, color) => {
    layer.querySelector("canvas")?.remove();
    if (!color) return;
    const image = layer.querySelector("img");
    await image.decode();
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    const data = pixels.data;
    const [red, green, blue] = color;
    // a dark color stands out against light, a light one against dark
    const veil = 0.3 * red + 0.59 * green + 0.11 * blue < 110 ? 255 : 0;
    for (let at = 0; at < data.length; at += 4) {
      const same = data[at] === red && data[at + 1] === green && data[at + 2] === blue;
      data[at] = data[at + 1] = data[at + 2] = veil;
      data[at + 3] = same ? 0 : 210;
    }
    context.putImageData(pixels, 0, 0);
    layer.querySelector("canvas")?.remove();
    layer.querySelector(".picture").append(canvas);
  };

  const single = () => {
    const option = control("only").selectedOptions[0];
    const color = option.value === "" ? null : option.value.split(" ").map(Number);
    for (const layer of list.querySelectorAll(".layer.flat")) dim(layer, color);
  };

  cards.forEach(addSlider);
  for (const name of ["site", "sort"]) control(name).addEventListener("change", arrange);
  control("limit")?.addEventListener("input", arrange);
  for (const name of ["view", "mode"]) control(name).addEventListener("change", view);
  control("only")?.addEventListener("change", single);
  control("all").addEventListener("input", () => {
    for (const card of cards) {
      slide(card, Math.min(control("all").value, card.querySelector(".wipe").max));
    }
  });
  control("controls").hidden = false;
  view();
  arrange();
  if (control("only")) single();
})();
