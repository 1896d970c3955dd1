package lark

import (
	"context"
	"errors"
	"strings"

	larkcore "github.com/larksuite/oapi-sdk-go/v3/core"
	larkim "github.com/larksuite/oapi-sdk-go/v3/service/im/v1"
)

// beingSent is Lark's code for a message with a uuid that it is delivering
// already.
const beingSent = 230049

// SendCard sends card, a card JSON of at most 30 KB, as the app's bot to the
// chat with openID, and returns the message's om_… id for [Client.UpdateCard].
// Lark sends at most one message per uuid (at most 50 characters) within an
// hour, so a call may be repeated, from another replica too. If Lark says that
// the message is being sent already, the id is empty and the error nil.
//
// Classes of errors: [Undeliverable], [UserDisabled] and [InvalidID], after
// which only the link in the 401 is left; [Rejected], the card is wrong;
// [Misconfigured]; and [Retry]. Source: Lark "send message".
func (c *Client) SendCard(ctx context.Context, openID, uuid string, card []byte) (messageID string, err error) {
	req := larkim.NewCreateMessageReqBuilder().ReceiveIdType("open_id").
		Body(larkim.NewCreateMessageReqBodyBuilder().
			ReceiveId(openID).MsgType("interactive").Content(string(card)).Uuid(uuid).Build()).Build()
	x, f, err := c.callAsApp(ctx, "send card", func(ctx context.Context, s *sdk, options ...larkcore.RequestOptionFunc) error {
		_, err := s.im.Message.Create(ctx, req, options...)
		return err
	})
	var e *Error
	if errors.As(err, &e) && e.Code == beingSent {
		return x.fields.object("data").text("message_id"), nil
	}
	if err != nil {
		return "", err
	}
	if messageID = f.object("data").text("message_id"); messageID == "" {
		return "", x.unusable("message_id")
	}
	return messageID, nil
}

// UpdateCard replaces the card of a message that [Client.SendCard] sent within
// the last 14 days. Both cards need config.update_multi. The class is [Gone] if
// the message can't be updated any more. Source: Lark "update message card".
//
// messageID becomes a part of a path, and comes from a database row: what is not
// an om_… id is [Gone].
func (c *Client) UpdateCard(ctx context.Context, messageID string, card []byte) error {
	if !isMessageID(messageID) {
		return &Error{Op: "update card", Class: Gone, Err: errors.New("the stored message id is none of Lark's")}
	}
	req := larkim.NewPatchMessageReqBuilder().MessageId(messageID).
		Body(larkim.NewPatchMessageReqBodyBuilder().Content(string(card)).Build()).Build()
	_, _, err := c.callAsApp(ctx, "update card", func(ctx context.Context, s *sdk, options ...larkcore.RequestOptionFunc) error {
		_, err := s.im.Message.Patch(ctx, req, options...)
		return err
	})
	return err
}

// isMessageID reports whether id has the form of Lark's message ids.
func isMessageID(id string) bool {
	rest, ok := strings.CutPrefix(id, "om_")
	return ok && rest != "" && len(id) <= 128 && !strings.ContainsFunc(rest, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	})
}
