// The page around the reader: it brings pictures (typed, drawn, dropped, from the camera) to 128 x 128
// grey pixels, has the model read them, and shows letters, speed and where the model looked.
'use strict';

const $ = (selector) => document.querySelector(selector);
const seen = $('#seen');
const pen = seen.getContext('2d', { willReadFrequently: true });
const side = seen.width;

// --- The model -------------------------------------------------------------------------------------

class Reader {
  // Fetches the model that lies beside the page.
  static async load() {
    const bytes = async (path) => {
      const answer = await fetch(path);
      if (!answer.ok) throw new Error(`${path}: ${answer.status} ${answer.statusText}`);
      return new Uint8Array(await answer.arrayBuffer());
    };
    const [wasm, ...files] = await Promise.all([createReader(), bytes('model/config.json'),
      bytes('model/captioner.json'), bytes('model/model.safetensors')]);
    return new Reader(wasm, files);
  }

  // files: the bytes of config.json, captioner.json and model.safetensors.
  constructor(wasm, files) {
    this.wasm = wasm;
    const lent = files.map((bytes) => {
      const at = wasm._malloc(bytes.length);
      if (at === 0) throw new Error(`no memory for ${bytes.length} bytes`);
      wasm.HEAPU8.set(bytes, at);
      return at;
    });
    this.check(wasm._reader_open(...lent.flatMap((at, i) => [at, files[i].length])));
    lent.forEach((at) => wasm._free(at));
    this.patches = wasm._reader_patches();
    this.heads = wasm._reader_heads();
    this.layers = wasm._reader_layers();
    if (wasm._reader_side() !== side)
      throw new Error(`the model reads ${wasm._reader_side()} pixels a side, this page has ${side}`);
  }

  check(status) {
    if (status === -1) throw new Error(this.wasm.UTF8ToString(this.wasm._reader_error()));
    return status;
  }

  // Looks at side * side grey pixels; fresh: what was read before is forgotten.
  look(pixels, fresh = true) {
    if (fresh) this.wasm._reader_forget();
    this.wasm.HEAPU8.set(pixels, this.wasm._reader_pixels());
    this.check(this.wasm._reader_look());
  }

  // The next letter, or null at the end. maps: for each head, where it looked (patches^2 weights).
  next() {
    const id = this.check(this.wasm._reader_next());
    if (id < 0) return null;
    const begin = this.wasm._reader_maps() / 4;
    const maps = this.wasm.HEAPF32.slice(begin, begin + this.heads * this.patches ** 2);
    return { id, text: this.wasm.UTF8ToString(this.wasm._reader_letter(id)), maps };
  }
}

// --- Reading, and what is shown of it ----------------------------------------------------------------

let reader = null;
let letters = [];        // of the newest picture
let chosen = -1;         // the letter whose map is shown; -1: none
let newest = 0;          // counts pictures: one that is no longer the newest stops being read
let waiting = false;     // a picture came while another was looked at
const times = [];        // when the last pictures had been read

const pause = (ms) => new Promise((go) => (ms > 0 ? setTimeout(go, ms) : requestAnimationFrame(go)));

function greyPixels() {
  const rgba = pen.getImageData(0, 0, side, side).data;
  const grey = new Uint8Array(side * side);
  for (let i = 0; i < grey.length; ++i)
    grey[i] = Math.round(0.299 * rgba[4 * i] + 0.587 * rgba[4 * i + 1] + 0.114 * rgba[4 * i + 2]);
  return grey;
}

// Reads what the canvas shows. Letters appear as they are read; a newer picture breaks it off.
async function readCanvas({ whole = false } = {}) {
  if (!reader) return;
  const picture = ++newest;
  const begin = performance.now();
  try {
    reader.look(greyPixels());
    const looked = performance.now();
    const read = [];
    let reading = 0, shown = looked;
    if (!whole) show(read, true);
    for (;;) {
      const from = performance.now();
      const letter = reader.next();
      reading += performance.now() - from;
      if (!letter) break;
      if (letter.text === '') continue;
      read.push(letter);
      const slow = $('#slow').checked && !whole;
      if (slow || (!whole && performance.now() - shown > 12)) {
        show(read, true);
        if (slow) choose(read.length - 1);
        await pause(slow ? 90 : 0);
        if (picture !== newest) return;
        shown = performance.now();
      }
    }
    show(read, false);
    times.push(performance.now());
    const busy = looked - begin + reading;
    $('#look').textContent = `${(looked - begin).toFixed(0)} ms`;
    $('#letter').textContent = read.length ? `${(reading / (read.length + 1)).toFixed(2)} ms` : '–';
    while (times.length > 1 && times[0] < times[times.length - 1] - 2000) times.shift();
    // Of a single picture: how many such pictures a second would take; of the camera, how many did.
    const rate = whole && times.length > 2
      ? 1000 * (times.length - 1) / (times[times.length - 1] - times[0]) : 1000 / busy;
    $('#rate').textContent = rate.toFixed(1);
  } catch (error) {
    fail(error);
  }
}

function show(read, going) {
  const box = $('#read');
  if (letters !== read) box.replaceChildren();
  letters = read;
  for (let i = box.children.length; i < read.length; ++i) {
    const span = document.createElement('span');
    span.dataset.index = i;
    span.textContent = read[i].text;
    if (read[i].text === '\n') {
      span.className = 'newline';
      span.textContent = '↵\n';
    }
    box.append(span);
  }
  box.classList.toggle('reading', going);
  choose(Math.min(chosen, read.length - 1));
}

// Shows where the model looked when it read letter i.
function choose(i) {
  const spans = $('#read').children;
  document.querySelector('#read .chosen')?.classList.remove('chosen');
  chosen = i;
  const map = $('#map');
  map.width = map.height = reader ? reader.patches : 1;  // and clears it
  if (i < 0 || i >= spans.length) return;
  spans[i].classList.add('chosen');
  const weights = shownWeights(letters[i].maps);
  const most = Math.max(...weights);
  const image = new ImageData(map.width, map.height);
  weights.forEach((w, k) => image.data.set([255, 96, 0, 210 * (w / most) ** 0.7], 4 * k));
  map.getContext('2d').putImageData(image, 0, 0);
}

// The weights of the heads that are asked for, summed.
function shownWeights(maps) {
  const cells = reader.patches ** 2;
  const sum = new Float32Array(cells);
  for (const head of $('#heads').value.split(',').map(Number))
    for (let k = 0; k < cells; ++k) sum[k] += maps[head * cells + k];
  return sum;
}

// Each layer's heads together, then each alone. Of the models that come with the library the last
// layer follows the letters best, so that it is shown first.
function fillHeads() {
  const each = reader.heads / reader.layers;
  const add = (name, heads) => $('#heads').append(new Option(name, heads.join()));
  for (let layer = reader.layers; layer-- > 0;)
    add(`layer ${layer + 1}`, Array.from({ length: each }, (_, h) => layer * each + h));
  for (let head = 0; head < reader.heads; ++head)
    add(`layer ${Math.floor(head / each) + 1}, head ${head % each + 1}`, [head]);
}

function say(text) {
  $('#status').textContent = text;
  $('#status').classList.remove('error');
}
function fail(error) {
  $('#status').textContent = error.message ?? String(error);
  $('#status').classList.add('error');
}

// One reading for many changes: those that come before the next frame count once.
function readSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    readCanvas();
  });
}

// --- Where pictures come from --------------------------------------------------------------------------

let source = 'type';
let picture = null;      // an ImageBitmap
let camera = null;       // a <video> that plays, while the camera looks
const view = { zoom: 0, x: 0, y: 0 };  // powers of 2; how far it was moved, in pixels of the canvas

function fill(colour) {
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = colour;
  pen.fillRect(0, 0, side, side);
}

// The text, in the largest letters that fit.
function drawText() {
  const [ink, paper] = $('#dark').checked ? ['#eee', '#222'] : ['#181818', '#f4f4f4'];
  const lines = $('#text').value.split('\n');
  fill(paper);
  let size = 26;
  const set = () => { pen.font = `${size}px ${$('#font').value}`; };
  const fits = () => set() ?? (lines.length * size * 1.3 <= side - 8 &&
    lines.every((line) => pen.measureText(line).width <= side - 10));
  while (size > 8 && !fits()) size -= 0.5;
  set();
  pen.fillStyle = ink;
  pen.textBaseline = 'middle';
  const top = side / 2 - (lines.length - 1) * size * 0.65;
  lines.forEach((line, i) => pen.fillText(line, 6, top + i * size * 1.3));
  readSoon();
}

// The part of a picture or of a camera's frame that `view` says; contain: all of it, else its middle square.
function drawPart(from, width, height, contain) {
  const fit = contain ? Math.min(side / width, side / height) : Math.max(side / width, side / height);
  const scale = fit * 2 ** view.zoom;
  fill('#fff');
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(from, side / 2 + view.x - width * scale / 2, side / 2 + view.y - height * scale / 2,
    width * scale, height * scale);
}

function drawPicture() {
  $('#drop').hidden = picture !== null;
  if (!picture) return;
  drawPart(picture, picture.width, picture.height, true);
  readSoon();
}

async function takePicture(blob) {
  try {
    picture = await createImageBitmap(blob);
  } catch {
    fail(new Error('this is no picture that the browser can read'));
    return;
  }
  view.zoom = view.x = view.y = 0;
  document.querySelectorAll('.zoom').forEach((z) => { z.value = 0; });
  say('');
  if (source === 'picture') drawPicture();
  else choose_source('picture');
}

async function startCamera() {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
    const video = document.createElement('video');
    video.srcObject = stream;
    video.muted = video.playsInline = true;
    await video.play();
    if (source !== 'camera') return stopCamera(video);  // meanwhile another tab was chosen
    camera = video;
    times.length = 0;
    say('');
    while (camera === video) {
      drawPart(video, video.videoWidth, video.videoHeight, false);
      await readCanvas({ whole: !$('#slow').checked });
      await pause(0);
    }
  } catch (error) {
    fail(new Error(`no camera: ${error.message ?? error}`));
  }
}
function stopCamera(video = camera) {
  video?.srcObject.getTracks().forEach((track) => track.stop());
  if (video === camera) camera = null;
}

function choose_source(name) {
  stopCamera();
  ++newest;
  source = name;
  document.querySelectorAll('[role=tab]').forEach((tab) =>
    tab.setAttribute('aria-selected', tab.dataset.source === name));
  document.querySelectorAll('[data-for]').forEach((part) => { part.hidden = part.dataset.for !== name; });
  $('#frame').className = { draw: 'draw', picture: 'move', camera: 'move' }[name] ?? '';
  $('#drop').hidden = true;
  view.zoom = view.x = view.y = 0;
  document.querySelectorAll('.zoom').forEach((z) => { z.value = 0; });
  chosen = -1;
  show([], false);
  say('');
  if (name === 'type') drawText();
  if (name === 'draw') clearDrawing();
  if (name === 'picture') drawPicture();
  if (name === 'camera') startCamera();
}

function clearDrawing() {
  fill('#f4f4f4');
  ++newest;
  show([], false);
}

// --- Events ----------------------------------------------------------------------------------------------

document.querySelectorAll('[role=tab]').forEach((tab) =>
  tab.addEventListener('click', () => choose_source(tab.dataset.source)));
for (const id of ['#text', '#font', '#dark']) $(id).addEventListener('input', drawText);
$('#clear').addEventListener('click', clearDrawing);
$('#another').addEventListener('click', () => { picture = null; choose_source('picture'); });
$('#file').addEventListener('change', (event) => event.target.files[0] && takePicture(event.target.files[0]));
document.querySelectorAll('.zoom').forEach((zoom) => zoom.addEventListener('input', () => {
  const grows = 2 ** (zoom.value - view.zoom);  // about the middle of what is seen
  view.x *= grows;
  view.y *= grows;
  view.zoom = Number(zoom.value);
  if (source === 'picture') drawPicture();
}));

addEventListener('dragover', (event) => { event.preventDefault(); $('#frame').classList.add('over'); });
addEventListener('dragleave', () => $('#frame').classList.remove('over'));
addEventListener('drop', (event) => {
  event.preventDefault();
  $('#frame').classList.remove('over');
  if (event.dataTransfer.files[0]) takePicture(event.dataTransfer.files[0]);
});
addEventListener('paste', (event) => {
  const file = event.clipboardData.files[0];
  if (file) takePicture(file);
});

// Where a pointer is, in pixels of the picture. (While one draws, the frame shows its middle alone.)
function place(event) {
  const shown = seen.getBoundingClientRect(), scale = side / shown.width;
  return [(event.clientX - shown.left) * scale, (event.clientY - shown.top) * scale];
}

$('#frame').addEventListener('pointerdown', (event) => {
  if (source === 'type' || event.target.closest('#drop')) return;
  event.preventDefault();
  const frame = event.currentTarget;
  frame.setPointerCapture(event.pointerId);
  let [x, y] = place(event);
  const move = (now) => {
    const [u, v] = place(now);
    if (source === 'draw') {
      pen.strokeStyle = '#181818';
      pen.lineWidth = 2;
      pen.lineCap = pen.lineJoin = 'round';
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(u, v);
      pen.stroke();
      readSoon();
    } else {
      view.x += u - x;
      view.y += v - y;
      if (source === 'picture') drawPicture();
    }
    [x, y] = [u, v];
  };
  frame.addEventListener('pointermove', move);
  frame.addEventListener('lostpointercapture', () => frame.removeEventListener('pointermove', move), { once: true });
});

$('#read').addEventListener('pointerover', (event) => choose(Number(event.target.dataset.index ?? -1)));
$('#read').addEventListener('pointerleave', () => choose(-1));
$('#read').addEventListener('keydown', (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || letters.length === 0) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(letters.length - 1, chosen + step)));
});
$('#heads').addEventListener('input', () => choose(chosen));

// Promises that the page is ready; tests wait for it, and read pixels of their own.
window.page = {
  ready: Reader.load().then((loaded) => {
    reader = loaded;
    fillHeads();
    // The browser compiles what is called often a second time, better: the speed shown is that one's.
    for (let i = 0; i < 4; ++i) reader.look(new Uint8Array(side * side));
    choose_source('type');
  }),
  readPixels(pixels, fresh) {
    ++newest;
    reader.look(pixels, fresh);
    const read = [];
    for (let letter; (letter = reader.next()) !== null;) read.push(letter);
    return read;
  },
  text: () => letters.map((letter) => letter.text).join(''),
  patches: () => reader.patches,
  shownWeights,
  reading: () => $('#read').classList.contains('reading') || waiting,
};
window.page.ready.catch(fail);
