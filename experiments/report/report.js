// What the page does beside being read: pictures that answer, a slider for budgets, tables that sort and download.
// It asks nothing of any network; without it the page says the same in still pictures and tables.
"use strict";
(() => {
  const WIDTH = 760, HEIGHT = 430, LEFT = 64, BOTTOM = 46, TOP = 14, RIGHT = 14;
  const SVG = document.querySelector("svg")?.namespaceURI;
  const goals = JSON.parse(document.getElementById("points").textContent);

  /** An element with attributes and children; texts are texts, whatever is in them. */
  function element(name, attributes = {}, ...children) {
    const made = name.startsWith("svg:")
      ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** A value as people read it, with the unit that suits its size. */
  function written(value, quantity) {
    if (value === undefined || value === null) return "–";
    const scales = { s: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]], B: [[1e6, "MB"], [1e3, "kB"], [1, "B"]],
      J: [[1, "J"], [1e-3, "mJ"], [1e-6, "µJ"]] }[quantity.unit] ?? [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
    const [scale, unit] = scales.find(([least]) => value >= least) ?? scales.at(-1);
    return `${Number((value / scale).toPrecision(3))} ${unit}`.trim();
  }
  const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);

  function explore(goal, place) {
    const cost = goal.cost, score = goal.is_share ? percent : (value) => (value === null ? "–" : value.toPrecision(4));
    const better = (a, b) => (goal.maximize ? a > b : a < b);
    const y = (point) => point.test ?? point.validation;
    const all = goal.series.flatMap((series) => series.points);
    const drawn = all.filter((point) => point.values[cost.name] > 0 && y(point) !== null);
    if (!drawn.length) return;
    const costs = drawn.map((point) => point.values[cost.name]), scores = drawn.map(y);
    const [low, high] = [Math.log(Math.min(...costs)), Math.log(Math.max(...costs))];
    const [least, most] = [Math.min(...scores), Math.max(...scores)];
    const across = (value) => LEFT + 8 + ((Math.log(value) - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT - 16);
    const up = (value) => HEIGHT - BOTTOM - 8 - ((value - least) / (most - least || 1)) * (HEIGHT - TOP - BOTTOM - 16);

    const svg = element("svg:svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Every network of ${goal.name}` });
    for (let i = 0; i <= 4; i++) {
      const value = Math.exp(low + ((high - low) * i) / 4), level = least + ((most - least) * i) / 4;
      svg.append(
        element("svg:line", { x1: across(value), x2: across(value), y1: TOP, y2: HEIGHT - BOTTOM, class: "grid" }),
        element("svg:text", { x: across(value), y: HEIGHT - BOTTOM + 18, "text-anchor": i < 4 ? "middle" : "end" }, written(value, cost)),
        element("svg:line", { x1: LEFT, x2: WIDTH - RIGHT, y1: up(level), y2: up(level), class: "grid" }),
        element("svg:text", { x: LEFT - 8, y: up(level) + 4, "text-anchor": "end" }, score(level)));
    }
    svg.append(
      element("svg:text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, `${cost.words}, logarithmic`));
    const budget = element("svg:line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "budget" });
    svg.append(budget);

    const tip = element("p", { class: "tip", "aria-live": "polite" }, "Point at a network to see it; click to copy the command that exports it.");
    const command = (point) => `supernet export ${goal.run} --arch ${point.id}${goal.device ? ` --device ${goal.device}` : ""} --out bundle`;
    function described(point, series) {
      const interval = point.intervals[cost.name];
      const range = interval ? ` (95 % interval ${written(interval[0], cost)} to ${written(interval[1], cost)})` : "";
      const predicted = point.predicted[cost.name];
      return `${point.id}, ${series}: ${score(point.test)} on test, ${score(point.validation)} on validation; `
        + `${written(point.values[cost.name], cost)} measured${range}`
        + (predicted ? `, ${written(predicted, cost)} predicted before` : "") + `. ${point.label}`;
    }
    async function copy(point, series) {
      if (!series.own) { tip.textContent = `${point.id} is a network of its own, which no run exports.`; return; }
      let done = "copied";
      try { await navigator.clipboard.writeText(command(point)); } catch { done = "copy this"; }
      tip.textContent = `${done}: ${command(point)}`;
    }

    const legend = element("div", { class: "legend" });
    for (const [number, series] of goal.series.entries()) {
      const points = series.points.filter((point) => drawn.includes(point));
      if (!points.length) continue;
      const group = element("svg:g", { class: `series ${series.colour}`, "data-series": series.name });
      const predictions = element("svg:g", { class: `predicted ${series.colour}`, "data-series": series.name, hidden: "" });
      if (number === 0) {
        const line = [...points].sort((a, b) => a.values[cost.name] - b.values[cost.name]);
        group.append(element("svg:polyline", { points: line.map((p) => `${across(p.values[cost.name])},${up(y(p))}`).join(" ") }));
      }
      for (const point of points) {
        const x = across(point.values[cost.name]), interval = point.intervals[cost.name];
        if (interval) group.append(element("svg:line", { x1: across(interval[0]), x2: across(interval[1]), y1: up(y(point)), y2: up(y(point)) }));
        const dot = element("svg:circle", { cx: x, cy: up(y(point)), r: 5, tabindex: 0, class: point.test === null ? "untested" : "", "data-id": point.id });
        dot.append(element("svg:title", {}, described(point, series.name)));
        for (const event of ["mouseenter", "focus"]) dot.addEventListener(event, () => { tip.textContent = described(point, series.name); });
        dot.addEventListener("click", () => copy(point, series));
        dot.addEventListener("keydown", (event) => { if (event.key === "Enter") copy(point, series); });
        group.append(dot);
        const [foretold, guessed] = [point.predicted[cost.name], point.predicted[goal.quality]];
        if (foretold > 0 && guessed !== undefined) {
          const [px, py] = [Math.min(Math.max(across(foretold), LEFT), WIDTH), Math.min(Math.max(up(guessed), 0), HEIGHT)];
          predictions.append(
            element("svg:line", { x1: x, y1: up(y(point)), x2: px, y2: py }),
            element("svg:path", { d: `M${px - 4},${py - 4}l8,8m0,-8l-8,8` }));
        }
      }
      svg.append(group, predictions);
      const box = element("input", { type: "checkbox", checked: "" });
      box.addEventListener("change", () => { group.toggleAttribute("hidden", !box.checked); predictions.classList.toggle("off", !box.checked); });
      legend.append(element("label", { class: series.colour }, box, ` ${series.name} (${points.length})`));
    }
    const predicted = element("input", { type: "checkbox" });
    predicted.addEventListener("change", () => {
      for (const group of svg.querySelectorAll(".predicted")) group.toggleAttribute("hidden", !predicted.checked);
    });
    legend.append(element("label", {}, predicted, " × what was predicted before it was measured"));

    const slider = element("input", { type: "range", min: 0, max: 1000, value: 1000, "aria-label": `Longest ${cost.words}` });
    const answer = element("p", { class: "answer", "aria-live": "polite" });
    function ask() {
      const limit = Math.exp(low + ((high - low) * slider.value) / 1000) * (1 + 1e-9);
      budget.setAttribute("x1", across(limit)); budget.setAttribute("x2", across(limit));
      let best = null, of = null;
      for (const series of goal.series.filter((one) => one.own)) {
        for (const point of series.points) {
          if (point.values[cost.name] > limit || point.validation === null) continue;
          if (!best || better(point.validation, best.validation)) [best, of] = [point, series];
        }
      }
      const asked = `${cost.words} up to ${written(limit, cost)}: `;
      if (!best) { answer.textContent = `${asked}nothing that was measured is as cheap.`; return; }
      const button = element("button", { type: "button" }, "copy the export command");
      button.addEventListener("click", () => copy(best, of));
      answer.replaceChildren(asked, element("code", {}, best.id), ` is the best on validation: ${described(best, of.name)} `, button);
    }
    slider.addEventListener("input", ask);
    place.append(legend, svg, tip, element("label", { class: "slider" }, `Budget of ${cost.words} `, slider), answer);
    place.hidden = false;
    ask();
  }

  /** Numbers first by size, with their units; texts by their letters. */
  function sortable(text) {
    const found = /^[<±]?\s*([−+-]?[\d.,]+)\s*(µs|ms|s|k|M|G|kB|MB|B|%|points)?/.exec(text.trim());
    if (!found) return text.trim() === "–" || text.trim() === "" ? Infinity : text.trim().toLowerCase();
    const unit = { "µs": 1e-6, ms: 1e-3, k: 1e3, kB: 1e3, M: 1e6, MB: 1e6, G: 1e9 }[found[2]] ?? 1;
    return Number(found[1].replace("−", "-").replaceAll(",", "")) * unit;
  }
  function equip(table) {
    const heads = [...table.querySelectorAll("thead th")], body = table.tBodies[0];
    for (const [column, head] of heads.entries()) {
      head.tabIndex = 0;
      const sort = () => {
        const rising = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [sortable(row.cells[column]?.textContent ?? ""), row]);
        rows.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1) * (rising ? 1 : -1));
        body.append(...rows.map(([, row]) => row));
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    }
    const quoted = (text) => `"${text.trim().replace(/\s+/g, " ").replaceAll('"', '""')}"`;
    const button = element("button", { type: "button", class: "download" }, "download as CSV");
    button.addEventListener("click", () => {
      const lines = [...table.rows].map((row) => [...row.cells].map((cell) => quoted(cell.textContent)).join(","));
      const link = element("a", { download: "table.csv" });
      link.href = URL.createObjectURL(new Blob(["\ufeff", lines.join("\r\n"), "\r\n"], { type: "text/csv" }));
      link.click();
      URL.revokeObjectURL(link.href);
    });
    table.parentElement.after(button);
  }

  for (const goal of goals) explore(goal, document.getElementById(`explore-${goal.number}`));
  for (const table of document.querySelectorAll("table")) if (table.tHead) equip(table);
})();
