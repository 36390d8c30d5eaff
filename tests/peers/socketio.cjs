// A chat server with Socket.IO and its Redis adapter, as its documentation has it.
// usage: node socketio.cjs REDIS-PORT; prints `ready addr=HOST:PORT`
const { createServer } = require('node:http');
const { createAdapter } = require('@socket.io/redis-adapter');
const { createClient } = require('redis');
const { Server } = require('socket.io');

async function main() {
  const pub = createClient({ url: `redis://127.0.0.1:${process.argv[2]}` });
  const sub = pub.duplicate();
  await Promise.all([pub.connect(), sub.connect()]);
  const http = createServer();
  const io = new Server(http, { transports: ['websocket'], adapter: createAdapter(pub, sub) });
  io.on('connection', (socket) => {
    socket.on('join', (room, done) => {
      socket.join(room);
      done();
    });
    socket.on('say', (room, data) => io.to(room).emit('said', data));
  });
  http.listen(0, '127.0.0.1', () => console.log(`ready addr=127.0.0.1:${http.address().port}`));
}

main();
