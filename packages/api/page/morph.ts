/** Shows what has changed, and leaves the rest alone: a selection, a place that is being read. */

const isAlike = (old: Node, next: Node): boolean =>
  old.nodeName === next.nodeName &&
  !(
    old instanceof Element &&
    old.getAttribute("data-key") !== (next as Element).getAttribute("data-key")
  )

const morphAttributes = (old: Element, next: Element): void => {
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name)) old.removeAttribute(name)
  }
  for (const { name, value } of next.attributes) {
    // Markup may not have a style; scripts may give one.
    if (name === "style") continue
    if (old.getAttribute(name) !== value) old.setAttribute(name, value)
  }
  if (old instanceof HTMLElement && next instanceof HTMLElement) {
    old.style.cssText = next.style.cssText
  }
}

/** Makes `old` look like `next`, which is used up. */
export const morph = (old: Element, next: Element): void => {
  morphAttributes(old, next)
  const children = [...next.childNodes]
  children.forEach((child, index) => {
    const own = old.childNodes[index]
    if (own === undefined) old.append(child)
    else if (!isAlike(own, child)) own.replaceWith(child)
    else if (own instanceof Element) morph(own, child as Element)
    else if (own.nodeValue !== child.nodeValue) own.nodeValue = child.nodeValue
  })
  while (old.childNodes.length > children.length) old.lastChild!.remove()
}
