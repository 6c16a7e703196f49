"use strict";
(() => {
  const list = document.getElementById("gallery-cards");
  if (!list) return;
  const site = document.getElementById("gallery-site");
  const order = document.getElementById("gallery-sort");
  const wipeAll = document.getElementById("gallery-wipe");
  const count = document.getElementById("gallery-count");
  const cards = [...list.children];

  // The regions' image is embedded once; its copy over the photo is made here.
  const addSlider = (card) => {
    const figure = card.querySelector("figure.image");
    const over = card.querySelector("figure.regions img").cloneNode();
    over.className = "over";
    over.alt = "";
    const edge = document.createElement("span");
    edge.className = "edge";
    figure.querySelector(".stage").append(over, edge);
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: 100, value: 0, className: "wipe" });
    slider.setAttribute("aria-label", `Regions over the image ${card.dataset.stem}, in percent of its width`);
    slider.addEventListener("input", () => wipe(card));
    figure.append(slider);
    wipe(card);
  };

  const wipe = (card) => {
    const part = Number(card.querySelector(".wipe").value);
    card.querySelector(".over").style.clipPath = `inset(0 ${100 - part}% 0 0)`;
    const edge = card.querySelector(".edge");
    edge.style.left = `${part}%`;
    edge.hidden = part === 0 || part === 100;
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
    list.append(...cards.sort(orders[order.value]));
    for (const card of cards) card.hidden = site.value !== "" && card.dataset.site !== site.value;
    const shown = cards.filter((card) => !card.hidden).length;
    count.value = `${shown} of ${cards.length} shown`;
  };

  cards.forEach(addSlider);
  site.addEventListener("change", arrange);
  order.addEventListener("change", arrange);
  wipeAll.addEventListener("input", () => {
    for (const card of cards) {
      card.querySelector(".wipe").value = wipeAll.value;
      wipe(card);
    }
  });
  document.getElementById("gallery-controls").hidden = false;
  arrange();
})();
