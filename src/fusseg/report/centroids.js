// The centroids of one round at a time; the numbers are in the page, this only draws them.
(() => {
  const figure = document.getElementById("centroids-figure");
  if (!figure) return;
  const drawing = document.getElementById("centroids-drawing");
  const slider = document.getElementById("centroids-round");
  const output = document.getElementById("centroids-value");
  const { clients, rounds } = JSON.parse(drawing.dataset.map);
  // shapes and colors are those of the legend
  const symbols = [...document.querySelectorAll("#centroids-legend path")];

  const make = (name, attributes, text) => {
    const element = document.createElementNS(drawing.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const mark = (client, x, y) => {
    const path = symbols[client].cloneNode();
    path.setAttribute("transform", `translate(${x} ${y})`);
    return path;
  };

  const drawClient = (group, round, client, points) => {
    for (let index = 0; index < points.length / 3; index += 1) {
      const [x, y, nearest] = points.slice(3 * index, 3 * index + 3);
      const [toX, toY] = round.server.slice(2 * nearest, 2 * nearest + 2);
      group.prepend(make("line", { x1: x, y1: y, x2: toX, y2: toY, class: "link" }));
      const point = mark(client, x, y);
      point.append(make("title", {}, `${clients[client]}: centroid ${index}, nearest to region ${nearest}`));
      group.append(point);
    }
  };

  const drawServer = (group, points) => {
    for (let index = 0; index < points.length / 2; index += 1) {
      const [x, y] = points.slice(2 * index, 2 * index + 2);
      const ring = make("g", { class: "server", transform: `translate(${x} ${y})` });
      ring.append(make("circle", { r: 17 }), make("text", { x: 15, y: -14 }, String(index)));
      ring.append(make("title", {}, `region ${index}, shared by all sites`));
      group.append(ring);
    }
  };

  const draw = () => {
    const round = rounds[slider.value];
    const group = make("g", {});
    drawServer(group, round.server);
    round.clients.forEach(([client, points]) => drawClient(group, round, client, points));
    drawing.replaceChildren(group);
    const text = round.name;
    output.value = text;
    slider.setAttribute("aria-valuetext", text);
    drawing.setAttribute("aria-label", `Centroids after ${text}: ${round.server.length / 2} of the server, from ${round.clients.length} clients`);
  };

  slider.addEventListener("input", draw);
  figure.hidden = false;
  draw();
})();
