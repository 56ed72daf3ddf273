(() => {
  "use strict";
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent || "{}");

  // ---- Colours: the figures name CSS variables; put in their values, which differ between light, dark and paper.

  const themed = (node) => {
    if (typeof node === "string") {
      const name = /^var\((--[a-z0-9]+)\)$/.exec(node);
      return name ? getComputedStyle(root).getPropertyValue(name[1]).trim() : node;
    }
    if (Array.isArray(node)) return node.map(themed);
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, themed(value)]));
  };
  const variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // ---- Labels beside points and at the ends of lines.

  const pen = document.createElement("canvas").getContext("2d");
  const widthOf = (label, size) => {
    pen.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
    const plain = new DOMParser().parseFromString(label, "text/html").body.textContent;
    return pen.measureText(plain).width;
  };

  const onAxis = (axis, value, length) => {
    const [low, high] = axis.range;
    const place = axis.type === "log" ? Math.log10(value) : Number(value);
    return ((place - low) / (high - low)) * length;
  };
  const axisValue = (axis, value) => (axis.type === "log" ? Math.log10(value) : value);

  // A mapper from data to pixels of the plotting area, its origin at the top left.
  const mapper = (gd) => {
    const { xaxis, yaxis, _size: area } = gd._fullLayout;
    return {
      width: area.w,
      height: area.h,
      xaxis,
      yaxis,
      at: (x, y) => ({ x: onAxis(xaxis, x, area.w), y: area.h - onAxis(yaxis, y, area.h) }),
    };
  };

  const overlap = (a, b) =>
    Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
    Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
  const boxAt = (x, y, width, height) => ({ left: x - width / 2, right: x + width / 2, top: y - height / 2, bottom: y + height / 2 });

  // Boxes that a label should keep clear of, each with its weight: marks, error bars, seeds, the front, the floor.
  const obstacles = (gd, map) => {
    const boxes = [];
    const add = (box, weight) => boxes.push({ box, weight });
    gd.data.forEach((trace) => {
      const points = trace.x.map((x, i) => map.at(x, trace.y[i]));
      if (trace.mode === "markers") {
        const size = trace.marker.size + 4;
        points.forEach((p, i) => {
          add(boxAt(p.x, p.y, size, size), trace.error_y ? 8 : 2);
          if (!trace.error_y) return;
          const spread = trace.error_y.array[i];
          const top = map.at(trace.x[i], trace.y[i] + spread).y;
          const low = map.at(trace.x[i], Math.max(trace.y[i] - spread, 1e-12)).y;
          add({ left: p.x - 4, right: p.x + 4, top, bottom: Math.min(low, map.height) }, 4);
        });
        return;
      }
      points.slice(1).forEach((p, i) => {
        const q = points[i];  // steps run across first, then down or up
        add({ left: Math.min(p.x, q.x), right: Math.max(p.x, q.x), top: q.y - 2, bottom: q.y + 2 }, 1);
        add({ left: p.x - 2, right: p.x + 2, top: Math.min(p.y, q.y), bottom: Math.max(p.y, q.y) }, 1);
      });
    });
    return boxes;
  };

  const directions = [[1, 0], [1, -1], [1, 1], [0, -1], [0, 1], [-1, -1], [-1, 1], [-1, 0]];
  const candidates = (point, width, height) =>
    [10, 20, 32].flatMap((gap, step) =>
      directions.map(([dx, dy], turn) => {
        const reach = dx && dy ? gap * 0.75 : gap;
        const shift = { x: dx * (reach + width / 2), y: dy * (reach + height / 2) };
        return { ...shift, box: boxAt(point.x + shift.x, point.y + shift.y, width, height), cost: step * 40 + turn, far: step > 0 };
      }));

  const inside = (box, map) => box.left >= 0 && box.right <= map.width && box.top >= 0 && box.bottom <= map.height;

  // Greedy: each label takes the candidate place that collides least; a place further away gets a thin leader. A label
  // that would cover others everywhere is left out: hovering still tells the name. Those on the front come first.
  const pointLabels = (gd, labels, size) => {
    const map = mapper(gd);
    const taken = obstacles(gd, map);
    return labels.flatMap((label) => {
      const point = map.at(label.x, label.y);
      const [width, height] = [widthOf(label.text, size) + 6, size * 1.35];
      const covered = (c) => taken.reduce((sum, t) => sum + t.weight * overlap(c.box, t.box), 0);
      const places = candidates(point, width, height)
        .filter((c) => inside(c.box, map))
        .map((c) => ({ ...c, covered: covered(c) }))
        .sort((a, b) => a.cost + a.covered - b.cost - b.covered);
      const best = places[0];
      if (!best || best.covered > 0.4 * width * height) return [];
      taken.push({ box: best.box, weight: 20 });
      return [{
        x: axisValue(map.xaxis, label.x), y: axisValue(map.yaxis, label.y), text: label.text,
        font: { size, color: variable("--ink") }, xanchor: "center", yanchor: "middle", captureevents: false,
        ...(best.far
          ? { showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: variable("--muted"), standoff: 8, ax: best.x, ay: best.y }
          : { showarrow: false, xshift: best.x, yshift: -best.y }),
      }];
    });
  };

  // Labels in the right margin, each at the height of its line's end, pushed apart where they would touch.
  const endLabels = (gd, ends, size) => {
    const map = mapper(gd);
    const gap = size * 1.3;
    const rows = ends.map((end) => ({ end, y: map.at(end.x, end.y).y })).sort((a, b) => a.y - b.y);
    rows.forEach((row, i) => { row.place = i ? Math.max(row.y, rows[i - 1].place + gap) : row.y; });
    const excess = rows.length ? Math.max(0, rows[rows.length - 1].place - (map.height + size)) : 0;
    rows.forEach((row, i) => { row.place -= excess ? Math.min(excess, row.place - i * gap) : 0; });
    return rows.map((row) => ({
      xref: "paper", x: 1, xanchor: "left", xshift: 6,
      yref: "paper", y: 1 - row.place / map.height, yanchor: "middle", showarrow: false, captureevents: false,
      text: `<span style="color:${themed(row.end.colour)}">━</span> ${row.end.text}`,
      font: { size, color: variable("--ink") },
    }));
  };

  // ---- Drawing.

  const touch = matchMedia("(pointer: coarse)").matches;
  const configOf = (box) => ({
    displaylogo: false,
    responsive: false,
    displayModeBar: !touch && box.clientWidth >= 560,
    modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: box.id },
  });

  const fitted = (box, layout) => {
    const narrow = box.clientWidth < 560;
    const size = narrow ? 11 : 13;
    const { fontFamily: family } = getComputedStyle(document.body);
    const meta = layout.meta || {};
    const ends = !narrow && meta.ends ? Math.max(...meta.ends.map((end) => widthOf(`━ ${end.text}`, 12))) + 14 : 0;
    const axis = (given) => ({ ...given, title: { ...given.title, font: { size } }, tickfont: { size: size - 1 } });
    return {
      ...layout,
      width: box.clientWidth,
      height: box.clientHeight,
      dragmode: touch ? false : "zoom",
      font: { ...layout.font, size, family },
      hoverlabel: { ...layout.hoverlabel, font: { ...layout.hoverlabel.font, family, size: 12 } },
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
      margin: { ...layout.margin, t: configOf(box).displayModeBar ? layout.margin.t : 6, r: Math.max(layout.margin.r, ends) },
      showlegend: layout.showlegend && !ends,
    };
  };

  const label = (box, layout) => {
    const meta = layout.meta || {};
    const narrow = box.clientWidth < 560;
    const annotations = meta.labels
      ? pointLabels(box, meta.labels, narrow ? 11 : 12.5)
      : meta.ends && !narrow ? endLabels(box, meta.ends, 12) : [];
    return Plotly.relayout(box, { annotations });
  };

  // Bars need a height per bar, and a legend of many lines needs rows of its own on a narrow page.
  const heightOf = (box, spec) => {
    const meta = spec.layout.meta || {};
    if (meta.bars) return `${90 + 34 * meta.bars}px`;
    if (!meta.ends || box.clientWidth >= 560) return "";
    const room = meta.ends.reduce((sum, end) => sum + widthOf(end.text, 12) + 50, 0);
    return `${360 + 20 * Math.ceil(room / (box.clientWidth - 60))}px`;
  };

  const draw = (id) => {
    const box = document.getElementById(id);
    const spec = figures[id];
    if (!box || !spec || !window.Plotly) return;
    box.style.height = heightOf(box, spec);
    Plotly.react(box, themed(spec.data), fitted(box, themed(spec.layout)), configOf(box)).then(() => label(box, spec.layout));
    if (box.dataset.drawn) return;
    box.dataset.drawn = "yes";
    box.on("plotly_relayout", (change) => {
      if (Object.keys(change).some((key) => /axis/.test(key))) label(box, spec.layout);
    });
  };
  const drawAll = () => Object.keys(figures).forEach(draw);

  const watchSize = () => {
    const widths = new Map();
    const watcher = new ResizeObserver((entries) => entries.forEach(({ target }) => {
      if (widths.get(target.id) === target.clientWidth) return;
      widths.set(target.id, target.clientWidth);
      requestAnimationFrame(() => draw(target.id));
    }));
    Object.keys(figures).forEach((id) => { const box = document.getElementById(id); if (box) watcher.observe(box); });
  };

  // ---- Tables: a heading sorts its column; values that are missing stay last in both directions.

  const sortBy = (table, column, head) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.v ?? "";
    const numeric = head.classList.contains("number");
    const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
    const rows = [...body.rows].sort((p, q) => {
      const [a, b] = [value(p), value(q)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return down ? compare(b, a) : compare(a, b);
    });
    [...head.parentElement.cells].forEach((cell) => cell.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  };
  document.querySelectorAll("table.sortable").forEach((table) =>
    [...table.tHead.rows[0].cells].forEach((head, column) =>
      head.querySelector("button").addEventListener("click", () => sortBy(table, column, head))));

  // ---- Copying a command; where the clipboard is closed, the command is selected instead.

  const select = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
    const source = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      select(source);
      button.textContent = "Selected";
    }
  }));

  // ---- Paper is white, whatever the screen is, and shows the cards open.

  addEventListener("beforeprint", () => {
    root.dataset.paper = "";
    document.querySelectorAll("details").forEach((card) => { card.open = true; });
    drawAll();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.paper;
    drawAll();
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  watchSize();
})();
