// openai-node: runTools, which calls the function and continues, at once and streamed, and responses.create.
import { createRequire } from "node:module";

const OpenAI = createRequire(`${process.cwd()}/`)("openai");
const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const cities = [];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const getWeather = ({ city }) => (cities.push(city), "sunny");
const tools = [
  { type: "function", function: { name: "get_weather", parameters, parse: JSON.parse, function: getWeather } },
];
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const answers = [];
for (const stream of [false, true])
  answers.push(await client.chat.completions.runTools({ model: "scripted", messages, tools, stream }).finalContent());
const response = await client.responses.create({ model: "scripted", input: "Hello" });
console.log(JSON.stringify({ cities, answers, response: response.output_text }));
