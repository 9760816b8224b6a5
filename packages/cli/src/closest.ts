/** What somebody may have meant by a name that is none. */

/** The known name that differs least, when that is little enough to be a slip. */
export const closest = (name: string, known: ReadonlyArray<string>): string | undefined => {
  const bare = bareName(name)
  if (bare === "") return undefined
  const ranked = known
    .map((candidate) => {
      const other = bareName(candidate)
      const isPrefix = bare.length >= 3 && other.startsWith(bare)
      return { candidate, distance: isPrefix ? 0 : editDistance(bare, other) }
    })
    .sort((a, b) => a.distance - b.distance)
  const best = ranked[0]
  return best !== undefined && best.distance <= mostSlips(bare) ? best.candidate : undefined
}

/** More would make one flag of llama.cpp another: `--in-file` is not `--hf-file`. */
const mostSlips = (name: string): number => (name.length < 8 ? 1 : 2)

/** The abbreviations, such as `-cmoe`: every letter of them means something, and `-cmoed` is another flag. */
const isAbbreviation = (name: string): boolean => !name.startsWith("--") && name.length <= 7

/** The flag that may have been meant: an abbreviation by its letters in another order, else the closest name. */
export const closestFlag = (name: string, known: ReadonlyArray<string>): string | undefined => {
  const alike = known.filter(
    (candidate) =>
      isAbbreviation(candidate) === isAbbreviation(name) &&
      // `--kv-offload` is not `--op-offload`, and `-ot` is not `-to`.
      firstLetter(candidate) === firstLetter(name),
  )
  const letters = sortedLetters(name)
  return isAbbreviation(name)
    ? alike.find((candidate) => letters === sortedLetters(candidate))
    : closest(name, alike)
}

const bareName = (name: string): string => name.replace(/^-+/, "").toLowerCase()

const firstLetter = (name: string): string | undefined => bareName(name).replace(/^no-/, "")[0]

/** `-C` and `-c` are two flags. */
const sortedLetters = (name: string): string => [...name].sort().join("")

/** Levenshtein distance; swapped neighbours count as one slip. */
export const editDistance = (a: string, b: string): number => {
  let beforeLast: ReadonlyArray<number> = []
  let last: ReadonlyArray<number> = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const cost = a[row - 1] === b[column - 1] ? 0 : 1
      let least = Math.min(last[column]! + 1, current[column - 1]! + 1, last[column - 1]! + cost)
      const isSwap = a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]
      if (row > 1 && column > 1 && isSwap) least = Math.min(least, beforeLast[column - 2]! + 1)
      current.push(least)
    }
    beforeLast = last
    last = current
  }
  return last[b.length]!
}
