"use strict";
// Reads out the line charts under the pointer: the paths hold the data, the plot's attributes its scale.
const formats = {
  plain: (v) => (Math.abs(v) >= 1e4 ? Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(v) : String(+v.toPrecision(4))),
  share: (v) => `${+(v * 100).toPrecision(3)} %`,
  bytes: (v) => `${+(v / 1e6).toPrecision(3)} MB`,
  clock: (v) => `${+v.toFixed(1)} s`,
};
for (const plot of document.querySelectorAll(".plot[data-x]")) {
  const [xLow, xHigh, xFormat, ...unit] = plot.dataset.x.split(" ");
  const [yLow, yHigh, yFormat] = plot.dataset.y.split(" ");
  const lines = [...plot.querySelectorAll("[data-line]")].map((path) => ({
    label: path.dataset.line,
    points: path.getAttribute("d").slice(1).split("L").map((pair) => pair.split(" ").map(Number)),
  }));
  const svg = plot.querySelector("svg");
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  const read = document.createElement("output");
  read.className = "read";
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * 1000;
    const near = lines.map((line) => line.points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)));
    const x = near.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a))[0];
    const value = (low, high, share) => Number(low) + (Number(high) - Number(low)) * share;
    const said = near.map((p, i) => `${lines[i].label} ${formats[yFormat](value(yLow, yHigh, 1 - p[1] / 1000))}`.trim());
    const where = xFormat === "clock" ? formats.clock(value(xLow, xHigh, x / 1000)) : `${unit.join(" ")} ${Math.round(value(xLow, xHigh, x / 1000))}`;
    read.textContent = `${where}: ${said.join(" · ")}`;
    cursor.setAttribute("d", `M${x} 0V1000`);
    svg.append(cursor);
    plot.previousElementSibling.append(read);
  });
  plot.addEventListener("pointerleave", () => { cursor.remove(); read.remove(); });
}
