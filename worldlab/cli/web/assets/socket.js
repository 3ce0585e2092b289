// The websocket of a page: messages out as JSON, messages in as objects, or as a header with pictures.

const AGAIN = [500, 1000, 2000, 5000];  // milliseconds before each attempt to connect again

/** Read a binary message: 4 bytes of length (big endian), a header in JSON, then the blobs whose sizes header.sizes lists. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const blobs = [];
  let at = 4 + length;
  for (const size of header.sizes ?? []) {
    blobs.push(new Uint8Array(buffer, at, size));
    at += size;
  }
  return { ...header, blobs };
}

/** Connect to the server and stay connected. onMessage takes each message, onState "open", "closed" or "ended" (and why). */
export function connect(onMessage, onState, { make = (url) => new WebSocket(url), place = location } = {}) {
  let socket = null, attempts = 0;
  const open = () => {
    socket = make(`${place.protocol === "https:" ? "wss" : "ws"}://${place.host}/live`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { attempts = 0; onState("open", ""); };
    socket.onmessage = ({ data }) => onMessage(typeof data === "string" ? JSON.parse(data) : unpack(data));
    socket.onclose = ({ code, reason }) => {
      if ([1007, 1008, 1009, 1011, 1013].includes(code)) return onState("ended", reason);
      onState("closed", reason);
      setTimeout(open, AGAIN[Math.min(attempts++, AGAIN.length - 1)]);
    };
  };
  open();
  return { send: (message) => { if (socket.readyState === 1) socket.send(JSON.stringify(message)); } };
}
