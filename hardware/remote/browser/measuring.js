// The measuring loop: warmed up, in turns of random order, until relative latencies are known well enough. It is that of
// hardware/loop/turns.py, and one set of tests holds both to the same laws; what is here besides is about browsers.

const SMALLEST_SCALE = 0.003; // of a turn
const BORROWED = 8; // networks, for which the errors of all turns count in the scale of each
const CHECKED_EVERY = 5; // turns: looking at the intervals takes as long as some calls
const WARM_SECONDS = 0.1; // engines compile WebAssembly quickly first, and well what they see running

/** A device stopped working in the middle of a session; what was handed out before is good. */
export class DeviceGone extends Error {}

/** Milliseconds between two readings of a clock that differ: what it can resolve. */
export function tick(now, readings = 5) {
  let smallest = Infinity;
  for (let i = 0; i < readings; i++) {
    const start = now();
    let next = now();
    for (let tries = 0; next === start && tries < 1e7; tries++) next = now();
    if (next > start) smallest = Math.min(smallest, next - start);
  }
  return Number.isFinite(smallest) ? smallest : 1;
}

/** The limits of the server, with what the clock of this device adds to them. */
export function withTick(sampling, now) {
  const tickSeconds = tick(now) / 1000;
  const shortest = Math.max(sampling.min_repeat_seconds, 100 * tickSeconds);
  return { ...sampling, tick_seconds: tickSeconds, min_repeat_seconds: shortest };
}

/** A random number generator of one seed (mulberry32). */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function median(values) {
  const ordered = [...values].sort((a, b) => a - b);
  const middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}

/**
 * Half the 95 % interval of every network's latency relative to the others, as a share: `half_widths` of loop.py.
 * @param {(number | null)[][]} turns seconds of every network in every turn, null where one did not take part
 */
export function halfWidths(turns) {
  const n = turns[0].length, all = [...Array(n).keys()];
  const logs = turns.map((turn) => turn.map((value) => (value === null ? null : Math.log(value))));
  const levels = all.map((i) => {
    const there = logs.map((row) => row[i]).filter((value) => value !== null);
    return there.length ? median(there) : 0;
  });
  // Without the smallest, which is that of the network the turn's effect follows. One alone is not relative to any.
  const rows = logs.map((row) => residuals(row, levels)).filter((row) => row.length > 1)
    .map((row) => ({ row, sizes: row.map(({ value }) => Math.abs(value)).sort((a, b) => a - b).slice(1) }));
  const common = rows.length ? median(rows.flatMap(({ sizes }) => sizes)) : 0;
  const total = Array(n).fill(0), errors = Array(n).fill(0);
  for (const { row, sizes } of rows) {
    // A turn of few networks says little about how noisy it is, and borrows from all.
    const few = row.length - 2, own = Math.max(median(sizes), 1e-6);
    const logarithm = (few * Math.log(own) + BORROWED * Math.log(Math.max(common, 1e-6))) / (few + BORROWED);
    const scale = Math.max(SMALLEST_SCALE, 1.4826 * Math.exp(logarithm));
    for (const { i, value } of row) {
      const weight = 4 / (3 + (value / scale) ** 2) / scale ** 2;
      total[i] += 4 / 6 / scale ** 2;
      errors[i] += (weight * value) ** 2 / (1 - 1 / row.length);
    }
  }
  const quantile = turns.length < 30 ? 2.2 : 2.0; // of Student's t
  return all.map((i) => (total[i] ? (quantile * Math.sqrt(errors[i])) / total[i] : Infinity));
}

/** What is left of a turn's log seconds without the levels and without what all have in common, by network. */
function residuals(row, levels) {
  const left = row.map((value, i) => ({ i, value: value === null ? null : value - levels[i] })).filter(({ value }) => value !== null);
  const effect = left.length ? median(left.map(({ value }) => value)) : 0;
  return left.map(({ i, value }) => ({ i, value: value - effect }));
}

/** Let timers and messages in: calls of a network that end in promises never do. */
export function breathe() {
  return new Promise((resolve) => setTimeout(resolve));
}

/** One network on its way: how often it is called in a repeat, and whether it failed. `run(calls)` calls it. */
export class Course {
  constructor(run, sampling, now) {
    Object.assign(this, { run, sampling, now, calls: 0, settlingCalls: 0, callSeconds: 0, spent: 0, error: null });
  }

  /** Seconds of one of so many calls. A clock that was set back is asked again, one that stood still after more calls. */
  async time(calls) {
    for (let tries = 0; tries < 20; tries++) {
      const start = this.now();
      await this.run(calls);
      const seconds = (this.now() - start) / 1000;
      if (seconds > 0 && Number.isFinite(seconds)) {
        this.spent += seconds;
        return seconds / calls;
      }
      if (seconds === 0) calls *= 2;
    }
    throw new Error("the clock of this device does not go forward");
  }

  /** Until no call is faster than the fastest before by more than 2 %, three times in a row, and for a tenth of a second. */
  async warmUp() {
    const { tick_seconds: tickSeconds, max_seconds, min_repeat_seconds, settling_seconds } = this.sampling;
    let fastest = Infinity, settled = 0, spent = 0;
    while (spent < WARM_SECONDS || (settled < 3 && spent < max_seconds / 4)) {
      const start = this.now();
      await this.run(1);
      const call = Math.max((this.now() - start) / 1000, tickSeconds);
      settled = call < 0.98 * fastest ? 0 : settled + 1;
      fastest = Math.min(fastest, call);
      spent += call;
    }
    this.calls = Math.ceil(min_repeat_seconds / fastest);
    // What is shorter than a tick of the clock is known only by calling it many times.
    if (fastest <= 2 * tickSeconds) {
      fastest = await this.time(this.calls);
      this.calls = Math.ceil(min_repeat_seconds / fastest);
    }
    this.settlingCalls = Math.ceil(settling_seconds / fastest);
    this.callSeconds = fastest;
    this.spent = 0;
  }

  /** What it adds to a turn, about. */
  get turnSeconds() {
    return (this.calls + this.settlingCalls) * this.callSeconds;
  }
}

/**
 * Let warmed-up networks take turns in random order; every turn, with `started` and `seconds` of each network (null for
 * those that did not take part), is handed out when it is over. Whoever takes the turns may set `doubt`: such a turn does
 * not count, and there are at most twice as many as `max_turns`.
 * @param {Course[]} courses what fails has an `error` afterwards
 * @param {object} sampling limits, as the server names them
 * @param {() => number} now milliseconds
 * @param {number} seed of the order
 */
export async function* takeTurns(courses, sampling, now, seed) {
  const random = generator(seed), origin = now(), counted = [];
  for (let taken = 0; ; taken++) {
    let active = courses.filter(({ error }) => error === null);
    if (counted.length >= sampling.max_turns || taken >= 2 * sampling.max_turns) return;
    if (counted.length >= sampling.min_turns) {
      active = active.filter(({ spent }) => spent < sampling.max_seconds);
      if (counted.length % CHECKED_EVERY === 0) {
        const widths = halfWidths(counted.map(({ seconds }) => seconds));
        if (active.every((course) => widths[courses.indexOf(course)] <= sampling.relative_half_width)) return;
      }
    }
    if (!active.length) return;
    const turn = { started: courses.map(() => null), seconds: courses.map(() => null), doubt: "" };
    let breathed = now();
    for (let left = active.length; left > 0; left--) {
      const [course] = active.splice(Math.floor(random() * left), 1), i = courses.indexOf(course);
      try {
        await course.run(course.settlingCalls);
        const started = Math.max(0, Math.round((now() - origin) * 1000)) / 1e6;
        turn.seconds[i] = await course.time(course.calls);
        turn.started[i] = started;
      } catch (error) {
        course.error = error;
        await checkOthers(courses, error);
      }
      if (now() - breathed > 100) {
        await breathe();
        breathed = now();
      }
    }
    await breathe(); // what happened meanwhile is known before anybody believes the times
    yield turn;
    if (!turn.doubt) counted.push(turn);
  }
}

/** Throws where that is the error, or where the network beside the one that failed does not run either. */
export async function checkOthers(courses, error) {
  if (error instanceof DeviceGone) throw error;
  const other = courses.find((course) => course.error === null);
  try {
    await other?.run(1);
  } catch {
    throw new DeviceGone(firstLine(error));
  }
}

/** What an error says, as one line of bounded length. */
export function firstLine(error) {
  return String(error?.message ?? error).split(/\s+/).join(" ").trim().slice(0, 1000) || "it fails without a reason";
}
