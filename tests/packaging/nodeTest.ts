/**
 * What stands in for `bun:test` where the protocol's vectors run without Bun: tests run at once, and what fails is listed. It
 * needs nothing of a runtime but `isEqual`, which the host gives.
 */
declare const isEqual: (left: unknown, right: unknown) => boolean

let count = 0
const failures: string[] = []

export const describe = (_name: string, body: () => void): void => body()

export const test = (name: string, body: () => void): void => {
  count++
  try {
    body()
  } catch (error) {
    failures.push(`${name}: ${error instanceof Error ? error.message : String(error)}`)
  }
}

const claim = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(what)
}

export const expect = <A = unknown>(received: A) => ({
  toBe: (expected: A) =>
    claim(Object.is(received, expected), `${String(received)} is not ${String(expected)}`),
  toEqual: (expected: unknown) =>
    claim(isEqual(received, expected), `${String(received)} does not equal ${String(expected)}`),
  toBeGreaterThan: (least: number) =>
    claim(Number(received) > least, `${String(received)} is not above ${least}`),
  toBeInstanceOf: (type: new (...args: never[]) => unknown) =>
    claim(received instanceof type, `it is no ${type.name}`),
})

/** `COUNT passed`, or what failed. */
export const summary = (): string =>
  failures.length === 0 ? `${count} passed` : failures.join("\n")
