// Fills a figure with the frame of the current setting. Precomputed frames are looked up; otherwise `ask` requests one.
// During a request only the newest setting is kept, so that a drag never lags behind the pointer.
const LATE = "The kernel has not answered for 10 s: it is busy, or was restarted. After a restart, run this cell again.";
const mount = (root, setup, ask) => {
  const knobs = [...root.querySelectorAll(".knobs input, .knobs select")];
  const stage = root.querySelector(".stage"), numbers = root.querySelector(".numbers");
  const words = root.querySelector(".words");
  const index = knob => knob.tagName === "SELECT" ? knob.selectedIndex : Number(knob.value);
  const count = knob => knob.tagName === "SELECT" ? knob.options.length : Number(knob.max) + 1;
  const make = (tag, className = "", text = "") => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    return element;
  };
  const write = (element, text) => element.textContent === text || (element.textContent = text);
  // A panel is created once: a step changes only its content, so that the browser has little to lay out and draw.
  const makePanel = () => {
    const box = make("div", "panel"), title = make("h4"), frame = make("div", "frame"), scale = make("div", "scale");
    const image = new Image(), canvas = make("canvas"), ends = [make("span"), make("span")], bar = make("i");
    // The CPU draws the outlines: without a graphics card the default is several times slower.
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    image.alt = "";
    image.decoding = "sync";
    frame.append(image, canvas);
    scale.append(ends[0], bar, ends[1]);
    box.append(title, frame, scale);
    const outline = ({ sides, lines }) => {
      const dense = window.devicePixelRatio;
      canvas.width = dense * frame.clientWidth;  // this also clears it
      canvas.height = dense * frame.clientHeight;
      const onScreen = new DOMMatrix().scale(canvas.width / sides[0] / 10, canvas.height / sides[1] / 10);
      for (const rim of [true, false])  // all rims are below all lines
        for (const [name, line] of Object.entries(lines)) {
          const style = setup.styles[name], path = new Path2D();
          path.addPath(new Path2D(line), onScreen);
          pen.setLineDash(style.dashes.split(" ").map(length => dense * length));
          pen.lineWidth = dense * (rim ? 4 : 2);
          pen.strokeStyle = rim ? "rgb(0, 0, 0, 0.45)" : style.colour;
          pen.stroke(path);
        }
    };
    const draw = (panel, images) => {
      write(title, panel.title);
      if (image.src !== images[panel.image]) image.src = images[panel.image];
      outline(panel);
      scale.hidden = !panel.ends;
      ends.forEach((end, i) => write(end, panel.ends ? panel.ends[i] : ""));
      bar.style.background = "linear-gradient(to right, " + panel.colours + ")";
    };
    return { box, draw };
  };
  const panels = setup.frames[0].panels.map(makePanel);
  stage.append(...panels.map(panel => panel.box));
  stage.setAttribute("role", "img");
  let drawAgain = () => {};
  const show = (frame, images) => {
    drawAgain = () => panels.forEach((panel, i) => panel.draw(frame.panels[i], images));
    drawAgain();
    stage.setAttribute("aria-label", frame.words);
    numbers.replaceChildren(...frame.numbers.map(([name, value]) => {
      const pair = make("p");
      pair.append(make("span", "", name + " "), make("strong", "", value));
      return pair;
    }));
    words.textContent = frame.words;
  };
  new ResizeObserver(() => drawAgain()).observe(stage);
  let busy = false, waiting = false, late;
  const update = () => {
    for (const knob of knobs)
      if (knob.dataset.texts) {
        const text = JSON.parse(knob.dataset.texts)[index(knob)];
        knob.setAttribute("aria-valuetext", text);
        knob.nextElementSibling.textContent = text;
      }
    if (!ask) {
      const at = knobs.reduce((sum, knob) => sum * count(knob) + index(knob), 0);
      show(setup.frames[at], setup.images);
    } else if (busy) waiting = true;
    else {
      busy = true;
      late = setTimeout(() => { words.textContent = LATE; }, 10000);
      ask(knobs.map(index));
    }
  };
  const answered = answer => {
    busy = false;
    clearTimeout(late);
    if (waiting) {
      waiting = false;
      update();
    }
    if (answer.failed) words.textContent = "There is no picture of this setting: " + answer.failed;
    else show(answer.frames[0], setup.images.concat(answer.images));
  };
  root.querySelector(".still").remove();
  root.querySelector(".live").hidden = false;
  root.addEventListener("input", update);
  if (ask) show(setup.frames[0], setup.images);
  else update();
  return answered;
};
const renderLive = async ({ model, el }) => {
  const root = document.createElement("figure");
  root.className = "dualtask-explorer";
  root.innerHTML = model.get("inside");
  el.append(root);
  const setup = model.get("setup"), answers = await model.widget_manager.get_model(setup.answers);
  // A model may have several views, and all of them hear every answer: each view takes only those to itself. The number
  // is there because a repeated answer would not count as a change.
  const view = Math.random();
  let number = 0;
  const answered = mount(root, setup, at => model.send({ at, asked: [view, ++number] }));
  const receive = () => {
    const answer = JSON.parse(answers.get("value"));
    if (answer.asked[0] === view) answered(answer);
  };
  answers.on("change:value", receive);
  return () => answers.off("change:value", receive);
};
