/**
 * The order in which ggml's tensor split gets its devices. Partial sums are added up in that of a tree over them, and what a server has all
 * leaves of it adds up alone (ServerSums.ts): of two servers with two devices each, it then sends one value where it would send two.
 */

/** The leaves of the tree from left to right: those of each branch beside each other (shim/io/all_reduce.cpp `sum_plan`). */
const leavesOf = (count: number): ReadonlyArray<number> => {
  let leaves = [0]
  let whole = 1
  while (whole * 2 <= count) whole *= 2
  // Halves are added up: the last step adds 1 to 0, the one before it 2 to 0 and 3 to 1.
  for (let offset = 1; offset < whole; offset *= 2) {
    leaves = leaves.flatMap((leaf) => [leaf, leaf + offset])
  }
  // What is more than a power of two is folded into the first ones before.
  return leaves.flatMap((leaf) => (leaf + whole < count ? [leaf, leaf + whole] : [leaf]))
}

/**
 * A permutation: which device comes when, where device i is of the server `servers[i]`. Devices of a server take a branch
 * of the tree as far as they fill one, those with most of them first; the order stays where each server has one device.
 */
export const sumOrder = (servers: ReadonlyArray<unknown>): ReadonlyArray<number> => {
  const devices = servers.map((_, device) => device)
  const byServer = [...Map.groupBy(devices, (device) => servers[device]).values()]
  if (byServer.length === devices.length || byServer.length === 1) return devices
  const grouped = byServer.toSorted((one, other) => other.length - one.length).flat()
  const order = new Array<number>(devices.length)
  for (const [at, leaf] of leavesOf(devices.length).entries()) order[leaf] = grouped[at]!
  return order
}
