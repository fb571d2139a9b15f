// SPDX-License-Identifier: Apache-2.0
// Shows the meshes of a report: drag or arrows turn them, the wheel comes closer
// once a mesh has been clicked (else it scrolls the page).
// A mesh is base64 of: uint32 V, F, then uint16 positions [V,3] over [-1,1]^3,
// uint8 sRGB colours [V,3], padding to 4 bytes, uint32 triangles [F,3].
"use strict";

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec3 color;
uniform mat4 view; uniform float zoom;
out vec3 shade; out vec3 facing;
void main() {
  // Field of view 40 degrees, from 3.2 units away; near plane 0.1, far plane 12.
  vec4 p = view * vec4(position, 1.0);
  float depth = 3.2 / zoom - p.z;
  gl_Position = vec4(p.xy * 2.747, 1.0168 * depth - 0.2017, depth);
  shade = color; facing = mat3(view) * normal;
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 shade; in vec3 facing; uniform bool clay; out vec4 pixel;
void main() {
  vec3 n = normalize(facing);
  float light = 0.35 + 0.5 * max(dot(n, normalize(vec3(-0.4, 0.7, 0.6))), 0.0)
      + 0.2 * max(n.z, 0.0);
  pixel = vec4(clay ? vec3(0.86, 0.83, 0.78) * light : shade, 1.0);
}`;

function decodeMesh(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;
  const [vertices, faces] = new Uint32Array(bytes, 0, 2);
  const packed = new Uint16Array(bytes, 8, vertices * 3);
  const position = Float32Array.from(packed, (v) => (v / 65535) * 2 - 1);
  const color = new Uint8Array(bytes, 8 + vertices * 6, vertices * 3);
  const index = new Uint32Array(bytes, Math.ceil((8 + vertices * 9) / 4) * 4, faces * 3);
  return { position, color, index, normal: vertexNormals(position, index) };
}

function vertexNormals(position, index) {
  const normal = new Float32Array(position.length);
  for (let f = 0; f < index.length; f += 3) {
    const [a, b, c] = [index[f] * 3, index[f + 1] * 3, index[f + 2] * 3];
    const u = [0, 1, 2].map((k) => position[b + k] - position[a + k]);
    const v = [0, 1, 2].map((k) => position[c + k] - position[a + k]);
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const i of [a, b, c]) for (let k = 0; k < 3; k++) normal[i + k] += n[k];
  }
  return normal;
}

function compile(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  return program;
}

function upload(gl, program, mesh) {
  const attribute = (name, data, type, normalized) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    const place = gl.getAttribLocation(program, name);
    if (place < 0) return;
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, type, normalized, 0, 0);
  };
  attribute("position", mesh.position, gl.FLOAT, false);
  attribute("normal", mesh.normal, gl.FLOAT, false);
  attribute("color", mesh.color, gl.UNSIGNED_BYTE, true);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.index, gl.STATIC_DRAW);
}

// World to camera, as in vsd_jax/scene/camera.py; columns as WebGL wants them.
function rotation(azimuth, elevation) {
  const [ca, sa] = [Math.cos(azimuth), Math.sin(azimuth)];
  const [ce, se] = [Math.cos(elevation), Math.sin(elevation)];
  return [ca, -se * sa, ce * sa, 0, 0, ce, se, 0, -sa, -se * ca, ce * ca, 0, 0, 0, 0, 1];
}

function startViewer(canvas) {
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: true, premultipliedAlpha: false });
  if (!gl) throw new Error("no WebGL 2");
  const mesh = decodeMesh(document.getElementById(canvas.dataset.mesh).textContent.trim());
  const program = compile(gl);
  gl.useProgram(program);
  upload(gl, program, mesh);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const open = canvas.dataset.open === "true";
  const start = { azimuth: 0.6, elevation: open ? 0.7 : 0.3, zoom: open ? 0.85 : 1.2 };
  const look = { ...start, clay: false, turning: !matchMedia("(prefers-reduced-motion: reduce)").matches };

  function draw() {
    const side = Math.round(canvas.clientWidth * Math.min(devicePixelRatio, 2)) || 512;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    gl.viewport(0, 0, side, side);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    // A room is seen through its near walls: only faces turned to the viewer are drawn.
    if (open) gl.enable(gl.CULL_FACE);
    gl.uniformMatrix4fv(uniform("view"), false, rotation(look.azimuth, look.elevation));
    gl.uniform1f(uniform("zoom"), look.zoom);
    gl.uniform1i(uniform("clay"), look.clay ? 1 : 0);
    gl.drawElements(gl.TRIANGLES, mesh.index.length, gl.UNSIGNED_INT, 0);
  }

  let last = 0;
  function tick(now) {
    if (look.turning) {
      look.azimuth += Math.min(now - last, 50) * 0.0005;
      draw();
    }
    last = now;
    requestAnimationFrame(tick);
  }
  function turn(dx, dy) {
    look.turning = false;
    look.azimuth -= dx * 0.01;
    look.elevation = Math.max(-1.5, Math.min(1.5, look.elevation + dy * 0.01));
    draw();
  }
  canvas.addEventListener("pointerdown", (e) => canvas.setPointerCapture(e.pointerId));
  canvas.addEventListener("pointermove", (e) => { if (e.buttons) turn(e.movementX, e.movementY); });
  canvas.addEventListener("wheel", (e) => {
    if (document.activeElement !== canvas) return;
    e.preventDefault();
    look.zoom = Math.max(0.4, Math.min(4, look.zoom * Math.exp(-e.deltaY * 0.001)));
    draw();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { Object.assign(look, start); draw(); });
  canvas.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: [10, 0], ArrowRight: [-10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] }[e.key];
    if (by) { e.preventDefault(); turn(...by); }
  });
  canvas.parentElement.querySelector("button").addEventListener("click", (e) => {
    look.clay = !look.clay;
    e.target.textContent = look.clay ? "show colour" : "show shape";
    draw();
  });
  draw();
  requestAnimationFrame(tick);
}

for (const canvas of document.querySelectorAll("canvas[data-mesh]")) {
  try {
    startViewer(canvas);
  } catch (error) {  // the other meshes, and a page that reloads itself, go on
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = `This browser does not show the mesh (${error.message}); open the GLB file below instead.`;
    canvas.replaceWith(note);
  }
}
