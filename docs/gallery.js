// The table of all networks: filter by text, sort by a heading.
(() => {
  const table = document.getElementById("zoo"), body = table.tBodies[0], rows = [...body.rows];
  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
  const value = (row, i) => row.cells[i].dataset.v ?? row.cells[i].textContent;
  [...table.tHead.rows[0].cells].forEach((head, i) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => value(a, i).localeCompare(value(b, i), "en", { numeric: true });
    body.append(...rows.sort((a, b) => (up ? order(a, b) : order(b, a))));
  }));
})();
