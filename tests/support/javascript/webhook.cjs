// The library of Standard Webhooks in JavaScript: whether it accepts each of the calls on stdin.
const fs = require("fs");
const { Webhook } = require("standardwebhooks");

const accepted = JSON.parse(fs.readFileSync(0, "utf8")).map(({ secret, body, headers }) => {
  try {
    return new Webhook(secret).verify(body, headers);
  } catch (error) {
    return { refused: error.message };
  }
});
fs.writeSync(1, JSON.stringify(accepted));
