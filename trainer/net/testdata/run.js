// Runs an ONNX model with onnxruntime-node and prints its inputs and outputs as JSON:
//
//	node run.js MODEL.onnx INPUT.f32 BATCH
//
// INPUT contains the images as float32, little endian, [BATCH,3,32,32].
const fs = require('node:fs');
const ort = require('onnxruntime-node');

const [model, input, batch] = process.argv.slice(2);

async function main() {
  const session = await ort.InferenceSession.create(model, { intraOpNumThreads: 1 });
  const bytes = fs.readFileSync(input);
  const data = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const results = await session.run({ input: new ort.Tensor('float32', data, [Number(batch), 3, 32, 32]) });
  const outputs = {};
  for (const name of session.outputNames) {
    outputs[name] = { shape: results[name].dims, data: Array.from(results[name].data) };
  }
  console.log(JSON.stringify({ inputs: session.inputNames, outputs }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
