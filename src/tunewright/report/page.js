"use strict";
const box = document.querySelector(".find");
if (box) {
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  const rows = [...document.querySelectorAll("#rows tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
  const more = document.querySelector("#rows > details");
  let opened = false;
  find.addEventListener("input", () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let hits = 0;
    for (const [row, text] of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      hits += row.hidden ? 0 : 1;
    }
    if (more && words.length > 0 && !more.open) opened = more.open = true;
    if (more && words.length === 0 && opened) opened = more.open = false;
    found.textContent = words.length ? `${hits} of ${rows.length} rows` : "";
  });
  box.hidden = false;
}
