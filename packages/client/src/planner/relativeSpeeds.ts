/**
 * Speeds are told apart in such steps: those within a tenth of the fastest count as the same, and when devices are measured
 * once more, shares are the same as a rule, so that caches of servers have the parts.
 */
const STEP = 1.1 ** 2

/** Measured speeds as parts of the fastest. */
export const relativeSpeeds = (speeds: ReadonlyArray<number>): ReadonlyArray<number> => {
  const fastest = Math.max(...speeds)
  return speeds.map((speed) => STEP ** -Math.round(Math.log(fastest / speed) / Math.log(STEP)))
}
