/** Elements made by plain calls: no text ever becomes markup. */

type Child = Node | string | undefined

interface Properties {
  readonly [name: string]: string | number | boolean | ((event: Event) => void) | undefined
}

/** `class` and other attributes by their names; functions listen to the event of the name; `false` and undefined: left out. */
export const element = <K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Properties = {},
  ...children: ReadonlyArray<Child>
): HTMLElementTagNameMap[K] => {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue
    if (typeof value === "function") made.addEventListener(name, value)
    else made.setAttribute(name, value === true ? "" : String(value))
  }
  made.append(...children.filter((child) => child !== undefined))
  return made
}

/** An element of index.html. */
export const byId = <T extends HTMLElement = HTMLElement>(id: string): T => {
  const found = document.getElementById(id)
  if (found === null) throw new Error(`index.html has no #${id}`)
  return found as T
}
