// Drives centrifuge-go, unmodified and speaking Protobuf, for the end-to-end tests.
//
// In: one JSON object a line, {"id", "op", ...}. Out: {"reply": id, "result" | "error"} for each, and
// {"event", ...} for whatever the SDK reports. Ends at the end of its input. Payloads are bytes, which are JSON here.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/centrifugal/centrifuge-go"
)

type object = map[string]interface{}

type command struct {
	ID      uint64          `json:"id"`
	Op      string          `json:"op"`
	URL     string          `json:"url"`
	User    string          `json:"user"`
	Tokens  []string        `json:"tokens"`
	Room    string          `json:"room"`
	Data    json.RawMessage `json:"data"`
	Method  string          `json:"method"`
	Limit   int32           `json:"limit"`
	Reverse bool            `json:"reverse"`
	Since   *struct {
		Offset uint64 `json:"offset"`
		Epoch  string `json:"epoch"`
	} `json:"since"`
}

var out sync.Mutex

func say(line object) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	out.Lock()
	defer out.Unlock()
	fmt.Println(string(text))
}

func person(info centrifuge.ClientInfo) object {
	return object{"user": info.User, "client": info.Client}
}

func publication(p centrifuge.Publication) object {
	o := object{"data": json.RawMessage(p.Data), "offset": p.Offset, "tags": p.Tags, "user": nil}
	if p.Info != nil {
		o["user"] = p.Info.User
	}
	return o
}

func publications(all []centrifuge.Publication) []object {
	list := []object{}
	for _, p := range all {
		list = append(list, publication(p))
	}
	return list
}

// What an SDK asks for a token: gives one after the other.
func oneAfterTheOther(tokens []string) func() (string, error) {
	return func() (string, error) {
		if len(tokens) == 0 {
			return "", errors.New("no token is left")
		}
		token := tokens[0]
		tokens = tokens[1:]
		return token, nil
	}
}

var client *centrifuge.Client

func connect(c command) error {
	data, err := json.Marshal(object{"user": c.User})
	if err != nil {
		return err
	}
	config := centrifuge.Config{Data: data}
	if len(c.Tokens) > 0 {
		next := oneAfterTheOther(c.Tokens)
		config.GetToken = func(centrifuge.ConnectionTokenEvent) (string, error) { return next() }
	}
	client = centrifuge.NewProtobufClient(c.URL, config)
	client.OnSubscribed(func(e centrifuge.ServerSubscribedEvent) {
		say(object{"event": "server_subscribed", "room": e.Channel, "recovered": e.Recovered, "was_recovering": e.WasRecovering})
	})
	client.OnPublication(func(e centrifuge.ServerPublicationEvent) {
		o := publication(e.Publication)
		o["event"], o["room"] = "server_publication", e.Channel
		say(o)
	})
	client.OnConnecting(func(e centrifuge.ConnectingEvent) {
		say(object{"event": "connecting", "code": e.Code, "reason": e.Reason})
	})
	client.OnConnected(func(e centrifuge.ConnectedEvent) {
		say(object{"event": "connected", "client": e.ClientID})
	})
	client.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		say(object{"event": "disconnected", "code": e.Code, "reason": e.Reason})
	})
	client.OnError(func(e centrifuge.ErrorEvent) {
		say(object{"event": "error", "message": e.Error.Error()})
	})
	return client.Connect()
}

func subscribe(c command) error {
	config := centrifuge.SubscriptionConfig{Recoverable: true, JoinLeave: true}
	if len(c.Tokens) > 0 {
		next := oneAfterTheOther(c.Tokens)
		config.GetToken = func(centrifuge.SubscriptionTokenEvent) (string, error) { return next() }
	}
	sub, err := client.NewSubscription(c.Room, config)
	if err != nil {
		return err
	}
	tell := func(event string, o object) {
		o["event"], o["room"] = event, c.Room
		say(o)
	}
	sub.OnSubscribing(func(e centrifuge.SubscribingEvent) {
		tell("subscribing", object{"code": e.Code, "reason": e.Reason})
	})
	sub.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		o := object{"recoverable": e.Recoverable, "was_recovering": e.WasRecovering, "recovered": e.Recovered}
		if e.StreamPosition != nil {
			o["offset"], o["epoch"] = e.StreamPosition.Offset, e.StreamPosition.Epoch
		}
		tell("subscribed", o)
	})
	sub.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
		tell("unsubscribed", object{"code": e.Code, "reason": e.Reason})
	})
	sub.OnPublication(func(e centrifuge.PublicationEvent) { tell("publication", publication(e.Publication)) })
	sub.OnJoin(func(e centrifuge.JoinEvent) { tell("join", person(e.ClientInfo)) })
	sub.OnLeave(func(e centrifuge.LeaveEvent) { tell("leave", person(e.ClientInfo)) })
	sub.OnError(func(e centrifuge.SubscriptionErrorEvent) { tell("error", object{"message": e.Error.Error()}) })
	return sub.Subscribe()
}

func subscription(c command) (*centrifuge.Subscription, error) {
	if sub, ok := client.GetSubscription(c.Room); ok {
		return sub, nil
	}
	return nil, fmt.Errorf("no subscription to %q", c.Room)
}

func history(ctx context.Context, c command) (interface{}, error) {
	options := []centrifuge.HistoryOption{
		centrifuge.WithHistoryLimit(c.Limit), centrifuge.WithHistoryReverse(c.Reverse),
	}
	if c.Since != nil {
		since := &centrifuge.StreamPosition{Offset: c.Since.Offset, Epoch: c.Since.Epoch}
		options = append(options, centrifuge.WithHistorySince(since))
	}
	page, err := client.History(ctx, c.Room, options...)
	return object{"offset": page.Offset, "epoch": page.Epoch, "publications": publications(page.Publications)}, err
}

func presence(ctx context.Context, c command) (interface{}, error) {
	present, err := client.Presence(ctx, c.Room)
	clients := object{}
	for id, info := range present.Clients {
		clients[id] = person(info)
	}
	return clients, err
}

func carryOut(ctx context.Context, c command) (interface{}, error) {
	switch c.Op {
	case "connect":
		return nil, connect(c)
	case "subscribe":
		return nil, subscribe(c)
	case "unsubscribe", "resubscribe":
		sub, err := subscription(c)
		if err != nil {
			return nil, err
		}
		if c.Op == "unsubscribe" {
			return nil, sub.Unsubscribe()
		}
		return nil, sub.Subscribe()
	case "publish":
		_, err := client.Publish(ctx, c.Room, c.Data)
		return nil, err
	case "presence":
		return presence(ctx, c)
	case "presence_stats":
		stats, err := client.PresenceStats(ctx, c.Room)
		return object{"clients": stats.NumClients, "users": stats.NumUsers}, err
	case "history":
		return history(ctx, c)
	case "rpc":
		answer, err := client.RPC(ctx, c.Method, c.Data)
		return json.RawMessage(answer.Data), err
	case "send":
		return nil, client.Send(ctx, c.Data)
	case "disconnect":
		return nil, client.Disconnect()
	}
	return nil, fmt.Errorf("unknown op %q", c.Op)
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var c command
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			panic(err)
		}
		result, err := carryOut(context.Background(), c)
		if err == nil {
			if result == nil {
				result = object{}
			}
			say(object{"reply": c.ID, "result": result})
			continue
		}
		code := uint32(0)
		var refused *centrifuge.Error
		if errors.As(err, &refused) {
			code = refused.Code
		}
		say(object{"reply": c.ID, "error": object{"code": code, "message": err.Error()}})
	}
}
