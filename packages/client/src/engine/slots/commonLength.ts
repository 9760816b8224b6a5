/** How many tokens two texts have in common at their beginning. */
export const commonLength = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number => {
  const most = Math.min(a.length, b.length)
  let length = 0
  while (length < most && a[length] === b[length]) length++
  return length
}
