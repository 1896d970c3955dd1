package consent

import "larkside/session"

// newCards is how c wants its cards.
func newCards(c Config) *cards {
	return &cards{title: c.CardTitle, message: c.CardMessage, privacy: c.PrivacyURL, appLink: c.AppLink, buttons: c.Buttons}
}

// AskingCard returns the card by which a [Flow] of c asks for p: card JSON 2.0.
// app is the name of the app. Of c only what concerns cards counts.
func AskingCard(c Config, app string, p *session.Consent) []byte {
	return newCards(c).waiting(app, p, session.NoSession)
}

// ClosedCard returns the card that takes its place when p is over.
func ClosedCard(c Config, app string, p *session.Consent) []byte {
	return newCards(c).closed(app, p)
}
