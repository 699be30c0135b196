(() => {
  "use strict";
  const [form, order, find, converged, shown, list] =
    ["filter", "order", "find", "converged", "shown", "tiles"].map((id) => document.getElementById(id));
  const tiles = [...list.children];
  const number = (tile, key) => (tile.dataset[key] === "" ? null : Number(tile.dataset[key]));
  const sort = () => {
    const [key, direction] = order.value.split(":");
    const sorted = tiles.map((tile, index) => [number(tile, key), index, tile]);
    // Tiles without a number come last, equal ones keep their order by channel.
    sorted.sort((a, b) => (a[0] === null) - (b[0] === null) || (a[0] - b[0]) * direction || a[1] - b[1]);
    list.append(...sorted.map((entry) => entry[2]));
  };
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    for (const tile of tiles) {
      const hide = (converged.checked && tile.dataset.converged === "0") || !words.every((word) => tile.dataset.name.includes(word));
      tile.hidden = hide;
      visible += !hide;
    }
    shown.value = visible === tiles.length ? "" : `${visible} of ${tiles.length} shown`;
  };
  order.addEventListener("change", sort);
  find.addEventListener("input", filter);
  converged.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  sort();
  filter();
})();
