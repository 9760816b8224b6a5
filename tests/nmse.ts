/** Σ(a-b)² / Σa², which llama.cpp's own tests of models measure. */
export const nmse = (reference: Float32Array, found: Float32Array): number => {
  let difference = 0
  let size = 0
  for (let index = 0; index < reference.length; index++) {
    difference += (reference[index]! - found[index]!) ** 2
    size += reference[index]! ** 2
  }
  return difference / size
}
