"""Drives centrifuge-python, unmodified, for the end-to-end tests; run by the venv that has the SDK.

In: one JSON object a line, {"id", "op", ...}. Out: {"reply": id, "result" | "error"} for each, and
{"event", ...} for whatever the SDK reports. Ends at the end of its input. With the argument `protobuf` it speaks
Protobuf instead of JSON: then payloads are bytes, which are JSON here all the same.
"""

import asyncio
import json
import sys

import centrifuge


PROTOBUF = "protobuf" in sys.argv[1:]


def packed(data):
    return json.dumps(data, ensure_ascii=False).encode() if PROTOBUF else data


def unpacked(data):
    return json.loads(data) if PROTOBUF and data is not None else data


def say(**line):
    print(json.dumps(line), flush=True)


def person(info):
    return {"user": info.user, "client": info.client}


def publication(pub):
    return {
        "data": unpacked(pub.data),
        "offset": pub.offset,
        "user": pub.info.user if pub.info else None,
        "tags": pub.tags,
    }


class ClientEvents(centrifuge.ClientEventHandler):
    async def on_connecting(self, ctx):
        say(event="connecting", code=ctx.code, reason=ctx.reason)

    async def on_connected(self, ctx):
        say(event="connected", client=ctx.client, data=unpacked(ctx.data or None))

    async def on_disconnected(self, ctx):
        say(event="disconnected", code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx):
        say(event="error", code=ctx.code, message=str(ctx.error))

    async def on_subscribed(self, ctx):
        recovery = {"recovered": ctx.recovered, "was_recovering": ctx.was_recovering}
        say(event="server_subscribed", room=ctx.channel, **recovery)

    async def on_publication(self, ctx):
        say(event="server_publication", room=ctx.channel, **publication(ctx.pub))


def one_after_the_other(tokens):
    """What an SDK asks for a token."""

    async def next_token(*_):
        return tokens.pop(0)

    return next_token if tokens else None


class RoomEvents(centrifuge.SubscriptionEventHandler):
    def __init__(self, room):
        self.room = room

    async def on_subscribing(self, ctx):
        say(event="subscribing", room=self.room, code=ctx.code, reason=ctx.reason)

    async def on_subscribed(self, ctx):
        position = ctx.stream_position
        say(
            event="subscribed",
            room=self.room,
            recoverable=ctx.recoverable,
            was_recovering=ctx.was_recovering,
            recovered=ctx.recovered,
            offset=position.offset if position else None,
            epoch=position.epoch if position else None,
        )

    async def on_unsubscribed(self, ctx):
        say(event="unsubscribed", room=self.room, code=ctx.code, reason=ctx.reason)

    async def on_publication(self, ctx):
        say(event="publication", room=self.room, **publication(ctx.pub))

    async def on_join(self, ctx):
        say(event="join", room=self.room, **person(ctx.info))

    async def on_leave(self, ctx):
        say(event="leave", room=self.room, **person(ctx.info))

    async def on_error(self, ctx):
        say(event="error", room=self.room, code=ctx.code, message=str(ctx.error))


class Driver:
    client = None

    def room(self, command):
        return self.client.get_subscription(command["room"])

    async def connect(self, command):
        self.client = centrifuge.Client(
            command["url"],
            events=ClientEvents(),
            data=packed({"user": command["user"]}),
            use_protobuf=PROTOBUF,
            get_token=one_after_the_other(command.get("tokens")),
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.5,
            proxy=None,
        )
        await self.client.connect()

    async def subscribe(self, command):
        name = command["room"]
        sub = self.client.new_subscription(
            name,
            events=RoomEvents(name),
            join_leave=True,
            recoverable=True,
            min_resubscribe_delay=0.05,
            get_token=one_after_the_other(command.get("tokens")),
        )
        await sub.subscribe()

    async def unsubscribe(self, command):
        await self.room(command).unsubscribe()

    async def resubscribe(self, command):
        await self.room(command).subscribe()

    async def publish(self, command):
        await self.client.publish(command["room"], packed(command["data"]))

    async def presence(self, command):
        result = await self.client.presence(command["room"])
        return {client: person(info) for client, info in result.clients.items()}

    async def presence_stats(self, command):
        stats = await self.client.presence_stats(command["room"])
        return {"clients": stats.num_clients, "users": stats.num_users}

    async def history(self, command):
        since = command.get("since")
        page = await self.client.history(
            command["room"],
            limit=command.get("limit", 0),
            since=centrifuge.StreamPosition(**since) if since else None,
            reverse=command.get("reverse", False),
        )
        return {
            "offset": page.offset,
            "epoch": page.epoch,
            "publications": [publication(p) for p in page.publications],
        }

    async def rpc(self, command):
        return unpacked((await self.client.rpc(command["method"], packed(command["data"]))).data)

    async def disconnect(self, _command):
        await self.client.disconnect()


async def carry_out(driver, command):
    try:
        result = await getattr(driver, command["op"])(command)
        say(reply=command["id"], result=result if result is not None else {})
    except centrifuge.ReplyError as error:
        say(reply=command["id"], error={"code": error.code, "message": error.message})
    except centrifuge.CentrifugeError as error:
        say(reply=command["id"], error={"code": 0, "message": repr(error)})


async def main():
    driver = Driver()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await carry_out(driver, json.loads(line))


asyncio.run(main())
