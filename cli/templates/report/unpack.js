// Large parts of a page that computes are deflated, and in base64 since a page is text. This comes before all that reads them.
const inflate = (node) => {
  const bytes = Uint8Array.from(atob(node.textContent.trim()), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
};
for (const node of document.querySelectorAll("script[data-deflate=text]")) {
  node.textContent = await inflate(node).text();
  delete node.dataset.deflate;
}
