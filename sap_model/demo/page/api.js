// The server's interface. Long answers arrive as one JSON object a line.

/** The JSON of a request; throws an Error with the server's one line. */
export async function request(path, options = {}) {
  const reply = await fetch(path, options);
  if (!reply.ok) throw new Error(await problem(reply));
  return reply.status === 204 ? null : reply.json();
}

/** Call `onStep` with every object of an answer, as it arrives. */
export async function stream(path, body, onStep, signal) {
  const reply = await fetch(path, {
    method: "POST", body: JSON.stringify(body), signal,
    headers: {"Content-Type": "application/json"},
  });
  if (!reply.ok) throw new Error(await problem(reply));
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) break;
    pending += value;
    const lines = pending.split("\n");
    pending = lines.pop();
    for (const line of lines) {
      const step = JSON.parse(line);
      if (step.error) throw new Error(step.error);
      await onStep(step);
    }
  }
}

async function problem(reply) {
  try { return (await reply.json()).error; } catch { return `the server answered ${reply.status}`; }
}
