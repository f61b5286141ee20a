// Every picture becomes an element once; a step only swaps elements, so that all layers change in the same frame.
(() => {
  const script = document.currentScript;
  const root = (script && script.closest(".dualtask-slices")) || document.getElementById("ROOT");
  const frames = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const stage = root.querySelector(".stage"), slider = root.querySelector("input[type=range]");
  const svg = stage.querySelector("svg"), words = root.querySelector(".words");
  const picture = (url, layer, alt) => {
    const image = new Image();
    image.decoding = "sync";
    image.className = layer;
    image.alt = alt;
    image.src = url;
    return image;
  };
  for (const frame of frames) {
    frame.ct = picture(frame.ct, "ct", frame.text);
    frame.distance = frame.distance && picture(frame.distance, "distance", "");
  }
  const show = () => {
    const frame = frames[slider.value];
    const images = [frame.ct];
    for (const box of root.querySelectorAll("input[type=checkbox]")) {
      const layer = box.dataset.layer;
      for (const path of svg.querySelectorAll("[data-layer=" + layer + "]"))
        path.setAttribute("d", box.checked ? frame.lines[layer] : "");
      if (layer === "distance" && box.checked) images.push(frame.distance);
    }
    stage.querySelectorAll("img").forEach(image => image.remove());
    stage.prepend(...images);
    words.textContent = frame.text;
    slider.setAttribute("aria-valuetext", frame.text.split(",")[0]);
  };
  let turned = 0;
  const turn = event => {
    turned += event.deltaMode ? 100 * Math.sign(event.deltaY) : event.deltaY;
    const from = slider.value;
    const steps = Math.abs(turned) < 50 ? 0 : -Math.sign(turned);
    slider.value = Number(from) + steps;
    if (steps) turned = 0;
    if (steps && slider.value === from) return;
    event.preventDefault();
    show();
  };
  root.querySelectorAll("div[hidden]").forEach(part => part.hidden = false);
  root.addEventListener("input", show);
  stage.addEventListener("wheel", turn, { passive: false });
  show();
})();
