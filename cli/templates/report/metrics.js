// The filter of "Every metric" shows the rows that have all the words.
const filter = $("filter");
if (filter) {
  const groups = [...document.querySelectorAll(".group")];
  const wasOpen = groups.map((g) => g.open);
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    groups.forEach((group, i) => {
      let shown = 0;
      for (const row of group.querySelectorAll("tbody tr")) {
        const key = row.firstElementChild.firstElementChild.textContent;
        row.hidden = !words.every((w) => key.includes(w));
        shown += !row.hidden;
      }
      group.hidden = shown === 0;
      group.open = words.length ? shown > 0 : wasOpen[i];
    });
  });
}
