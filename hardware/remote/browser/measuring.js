// The measuring loop: warmed up, interleaved in random order with a reference network, repeated until the median is known.

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

/** Half the width of the 95 % interval of the median as a share of it; between two order statistics (Conover 1999). */
export function halfWidth(values) {
  const n = values.length;
  let rank = 0, logWays = -n * Math.LN2, tail = Math.exp(logWays);
  while (tail <= 0.025) {
    logWays += Math.log((n - rank) / (rank + 1));
    rank += 1;
    tail += Math.exp(logWays);
  }
  if (rank === 0) return Infinity;
  const ordered = [...values].sort((a, b) => a - b);
  return (ordered[n - rank] - ordered[rank - 1]) / 2 / median(ordered);
}

/** Let timers and messages in: calls of a network that end in promises never do. */
function breathe() {
  return new Promise((resolve) => setTimeout(resolve));
}

/** One network on its way to a tight interval. `run(calls)` calls it so many times in a row. */
class Course {
  constructor(run, now, sampling) {
    Object.assign(this, { run, now, sampling, calls: 0, settlingCalls: 0, origin: now() });
    this.forget();
  }

  /** Begin anew with repeats; what they started at counts from `origin`, a reading of the clock. */
  forget(origin = this.origin) {
    Object.assign(this, { origin, seconds: [], started: [] });
  }

  /** Seconds of one of so many calls. A clock that was set back is asked again, one that stood still after more calls. */
  async time(calls) {
    for (let tries = 0; tries < 20; tries++) {
      const start = this.now();
      await this.run(calls);
      const seconds = (this.now() - start) / 1000;
      if (seconds > 0 && Number.isFinite(seconds)) return seconds / calls;
      if (seconds === 0) calls *= 2;
    }
    throw new Error("the clock of this device does not go forward");
  }

  /**
   * Until no call is faster than the fastest before by more than 2 %, three times in a row, and for a tenth of a second:
   * engines compile WebAssembly quickly first, and well what they see running.
   */
  async warmUp() {
    let fastest = Infinity, settled = 0, spent = 0;
    while (spent < 0.1 || (settled < 3 && spent < this.sampling.max_seconds / 4)) {
      const start = this.now();
      await this.run(1);
      const call = Math.max((this.now() - start) / 1000, this.sampling.tick_seconds);
      settled = call < 0.98 * fastest ? 0 : settled + 1;
      fastest = Math.min(fastest, call);
      spent += call;
    }
    this.calls = Math.ceil(this.sampling.min_repeat_seconds / fastest);
    this.settlingCalls = Math.ceil(this.sampling.settling_seconds / fastest);
    // What is shorter than a tick of the clock is known only by calling it many times.
    if (fastest <= 2 * this.sampling.tick_seconds) {
      const call = await this.time(this.calls);
      this.calls = Math.ceil(this.sampling.min_repeat_seconds / call);
      this.settlingCalls = Math.ceil(this.sampling.settling_seconds / call);
    }
  }

  async repeat() {
    await this.run(this.settlingCalls);
    this.started.push(Math.max(0, Math.round((this.now() - this.origin) * 1000)) / 1e6);
    this.seconds.push(await this.time(this.calls));
  }

  get done() {
    const { length } = this.seconds, { sampling } = this;
    if (length < sampling.min_repeats) return false;
    if (length >= sampling.max_repeats) return true;
    const spent = this.seconds.reduce((sum, value) => sum + value, 0) * this.calls;
    return spent >= sampling.max_seconds || halfWidth(this.seconds) <= sampling.relative_half_width;
  }
}

/** A campaign on one device: the reference network, its level so far, and the order of turns. */
export class Campaign {
  /**
   * @param {(calls: number) => Promise<void>} reference runs the reference network
   * @param {object} sampling limits, as the server names them
   * @param {() => number} now milliseconds
   * @param {(share: number) => void} onTurn called after every turn with the share that is likely done
   */
  constructor(reference, sampling, now, onTurn = () => {}) {
    const tickSeconds = tick(now) / 1000;
    this.sampling = {
      ...sampling,
      tick_seconds: tickSeconds,
      min_repeat_seconds: Math.max(sampling.min_repeat_seconds, 100 * tickSeconds),
    };
    this.now = now;
    this.onTurn = onTurn;
    this.random = generator(sampling.seed);
    this.origin = now();
    this.reference = new Course(reference, now, this.sampling);
    this.levels = [];
  }

  /** Measure networks side by side; again, once, where the reference network is off its level. */
  async measure(runs, level = null) {
    if (!this.reference.calls) await this.reference.warmUp();
    const courses = runs.map((run) => new Course(run, this.now, this.sampling));
    for (const course of courses) {
      await course.warmUp();
      await breathe();
    }
    if (Math.abs(await this.takeTurns(courses, level)) > this.sampling.drift) await this.takeTurns(courses, level);
    return {
      reference_seconds: this.reference.seconds,
      reference_started: this.reference.started,
      results: courses.map(({ seconds, started, calls }) => ({ seconds, started, calls_per_repeat: calls })),
    };
  }

  async takeTurns(courses, level) {
    for (const course of [this.reference, ...courses]) course.forget(this.origin);
    let breathed = this.now();
    for (let turn = 1; ; turn++) {
      const active = courses.filter((course) => !course.done);
      if (!active.length) break;
      active.push(this.reference);
      for (let left = active.length; left > 0; left--) {
        const [course] = active.splice(Math.floor(this.random() * left), 1);
        await course.repeat();
        if (this.now() - breathed > 100) {
          await breathe();
          breathed = this.now();
        }
      }
      this.onTurn(Math.min(1, turn / this.sampling.min_repeats));
    }
    await breathe(); // what was hidden meanwhile is known before anybody believes the times
    const now = median(this.reference.seconds);
    this.levels.push(now);
    return now / (level ?? median(this.levels)) - 1;
  }
}
