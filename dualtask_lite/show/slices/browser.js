// Every image becomes an element once; a step only replaces elements, so that all layers change in the same frame.
(() => {
  const script = document.currentScript;
  const root = (script && script.closest(".dualtask-slices")) || document.getElementById("ROOT");
  const frames = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const stages = [...root.querySelectorAll(".stage")], words = root.querySelectorAll(".words");
  const slider = root.querySelector("input[type=range]");
  const picture = (url, layer, alt) => {
    const image = new Image();
    image.decoding = "sync";
    image.className = layer;
    image.alt = alt;
    image.src = url;
    return image;
  };
  for (const frame of frames)
    for (const panel of frame.panels) {
      panel.ct = picture(frame.ct, "ct", panel.text);
      for (const layer in panel.images) panel.images[layer] = picture(panel.images[layer], "colours", "");
    }
  const show = () => {
    const on = [...root.querySelectorAll("input[type=checkbox]:checked")].map(box => box.dataset.layer);
    frames[slider.value].panels.forEach((panel, index) => {
      const stage = stages[index];
      for (const path of stage.querySelectorAll("[data-layer]"))
        path.setAttribute("d", on.includes(path.dataset.layer) ? panel.lines[path.dataset.layer] : "");
      stage.querySelectorAll("img").forEach(image => image.remove());
      stage.prepend(panel.ct, ...on.filter(layer => panel.images[layer]).map(layer => panel.images[layer]));
      words[index].textContent = panel.text;
    });
    slider.setAttribute("aria-valuetext", frames[slider.value].panels[0].text.split(",")[0]);
  };
  let wheel = 0;
  const scroll = event => {
    const end = event.deltaY > 0 ? slider.min : slider.max;  // at it, the wheel scrolls the page
    if (event.ctrlKey || !event.deltaY || slider.value === end) return;
    event.preventDefault();
    wheel += event.deltaMode ? 100 * Math.sign(event.deltaY) : event.deltaY;
    if (Math.abs(wheel) < 50) return;
    slider.value = Number(slider.value) - Math.sign(wheel);
    wheel = 0;
    show();
  };
  root.querySelectorAll("div[hidden]").forEach(part => part.hidden = false);
  root.addEventListener("input", show);
  stages.forEach(stage => stage.addEventListener("wheel", scroll, { passive: false }));
  show();
})();
