/** Copying, also where a page is served without TLS, which has no clipboard. */
import { element } from "./dom.ts"

const TOLD_MS = 1500

const copyText = async (text: string): Promise<void> => {
  if (navigator.clipboard !== undefined) return navigator.clipboard.writeText(text)
  const focused = document.activeElement
  const field = element("textarea", { class: "hidden", "aria-hidden": "true" })
  field.value = text
  document.body.append(field)
  field.select()
  document.execCommand("copy")
  field.remove()
  if (focused instanceof HTMLElement) focused.focus()
}

export const copyButton = (label: string, text: () => string): HTMLButtonElement => {
  const button = element(
    "button",
    { type: "button", class: "quiet small", "aria-label": label },
    "Copy",
  )
  button.addEventListener("click", () => {
    copyText(text()).then(
      () => tell(button, "Copied"),
      () => tell(button, "Not allowed"),
    )
  })
  return button
}

const tell = (button: HTMLButtonElement, text: string): void => {
  button.textContent = text
  setTimeout(() => {
    button.textContent = "Copy"
  }, TOLD_MS)
}
