// Boltzmann's policy on the two wells, for a state and a temperature that the reader chooses.
const place = document.getElementById("boltzmann");
const reward = (s) => -((s * s - 1) ** 2);
const q = (s, a) => reward(s) + 0.9 * reward(Math.min(Math.max(s + a, -1.5), 1.5));
place.innerHTML =
  '<label>temperature β <input type="range" min="-2.5" max="1" step="0.05" value="-0.7" name="beta"></label> <output></output><br>' +
  '<label>state s <input type="range" min="-1.5" max="1.5" step="0.05" value="0" name="state"></label> <output></output>' +
  '<svg viewBox="0 0 400 160" style="max-width:30rem;display:block"><path fill="none" stroke="currentColor" stroke-width="2"/>' +
  '<text x="0" y="158" font-size="11" fill="currentColor">a = −1</text>' +
  '<text x="365" y="158" font-size="11" fill="currentColor">a = 1</text></svg>';
const [beta, state] = place.querySelectorAll("input");
const told = place.querySelectorAll("output");
function draw() {
  const temperature = 10 ** beta.value, s = Number(state.value);
  const actions = Array.from({ length: 201 }, (_, i) => -1 + i / 100);
  const values = actions.map((a) => q(s, a));
  const top = Math.max(...values);
  const weights = values.map((value) => Math.exp((value - top) / temperature));
  const mass = weights.reduce((sum, weight) => sum + weight) * 0.01;
  const smooth = top + temperature * Math.log(mass);
  told[0].textContent = `${temperature.toFixed(3)}: smooth maximum ${smooth.toFixed(3)}, maximum ${top.toFixed(3)}`;
  told[1].textContent = s.toFixed(2);
  const points = actions.map((a, i) => `${200 + 200 * a},${140 - 130 * weights[i]}`);
  place.querySelector("path").setAttribute("d", "M" + points.join(" L"));
}
place.addEventListener("input", draw);
draw();
