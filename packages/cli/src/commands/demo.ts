export const demo = () => {
  throw new Error()
}
