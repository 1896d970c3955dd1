package consent

import "strings"

// translated is a text in each language.
type translated struct{ zh, en, ja string }

// same returns a text that is the same in each language.
func same(s string) translated { return translated{s, s, s} }

// fill replaces name by value, or by fallback if value is empty.
func (t translated) fill(name, value string, fallback translated) translated {
	v := same(value)
	if value == "" {
		v = fallback
	}
	return translated{
		strings.ReplaceAll(t.zh, name, v.zh), strings.ReplaceAll(t.en, name, v.en), strings.ReplaceAll(t.ja, name, v.ja),
	}
}

func (t translated) join(u translated) translated {
	return translated{t.zh + u.zh, t.en + u.en, t.ja + u.ja}
}

// message is the text about a consent that is over: the title of its card and
// page, and the texts of both.
type message struct {
	title, card, page translated
	// next is what the reader of the page does now, one thing after the other, and
	// note what else they may want. {link} in them is how to get another link.
	next []translated
	note translated
}

// texts has every built-in text. {app} is the app's name.
var texts = struct {
	thisApp, cardTitle, cardIntro, cardRenew, cardLacking, cardScopes, more, cardLife, privacy, authorize, decline, code translated
	endingTitle, endingIntro, renew, resend, minutes, hours, days                                                        translated
	// For who has clicked.
	toastSent, toastAlready, toastNotYours, toastOver, toastRate, toastFailed translated

	done, declined, expired, superseded, failed, wrongAccount, revoked message

	// Pages only. asked has the name of the app that asked.
	asked, back, linkByCard, linkByUse translated

	malformed, otherBrowser, larkFailed, unavailable, notFound, method message
}{
	thisApp:   translated{"此应用", "This app", "このアプリ"},
	cardTitle: translated{"需要你的授权", "Your authorization is needed", "許可が必要です"},
	cardIntro: translated{
		"**{app}** 想以你的身份访问飞书数据。点击下面的按钮授权，只需一次。",
		"**{app}** would like to act for you in Lark. One click on the button authorizes it.",
		"**{app}** があなたの代わりに Lark を利用しようとしています。下のボタンで許可してください。",
	},
	cardRenew: translated{
		"你之前给 **{app}** 的授权已失效。点击下面的按钮重新授权，它就能继续为你工作。",
		"Your earlier authorization of **{app}** has ended. One click on the button renews it.",
		"**{app}** への以前の許可は無効になりました。下のボタンで更新してください。",
	},
	cardLacking: translated{
		"**{app}** 还需要你的一项授权，才能继续为你工作。点击下面的按钮授权。",
		"**{app}** needs one more permission from you. One click on the button grants it.",
		"**{app}** には、あなたの許可がもう一つ必要です。下のボタンで許可してください。",
	},
	cardScopes: translated{"它将可以：", "It will be able to:", "許可される内容:"},
	more:       translated{"\n- 以及另外 {n} 项", "\n- and {n} more", "\n- ほか {n} 件"},
	cardLife: translated{
		"链接 {time}内有效，仅限你本人使用。如果你没有请求过，可以忽略这条消息。",
		"The link works for {time} and for you alone. If you did not expect this, ignore it.",
		"リンクは {time}、あなただけが使えます。心当たりがなければ無視してください。",
	},
	privacy:   translated{" [隐私政策]({url})", " [Privacy policy]({url})", " [プライバシーポリシー]({url})"},
	authorize: translated{"授权", "Authorize", "許可する"},
	decline:   translated{"拒绝", "Decline", "拒否する"},
	code:      translated{"如果页面要求输入验证码：**{code}**", "If the page asks for a code: **{code}**", "ページでコードを求められたら: **{code}**"},
	minutes:   translated{"{n} 分钟", "{n} minutes", "{n} 分間"},
	hours:     translated{"{n} 小时", "{n} hours", "{n} 時間"},
	days:      translated{"{n} 天", "{n} days", "{n} 日間"},

	endingTitle: translated{"你的授权即将到期", "Your authorization ends soon", "許可の期限が近づいています"},
	endingIntro: translated{
		"你给 **{app}** 的授权即将到期。现在续期，它就不会中断为你工作。",
		"Your authorization of **{app}** is about to end. Renew it now and nothing is interrupted.",
		"**{app}** への許可はまもなく終了します。今更新すれば、中断なく使い続けられます。",
	},
	renew:  translated{"续期授权", "Renew", "更新する"},
	resend: translated{"发送新的链接", "Send me a new link", "新しいリンクを受け取る"},

	toastSent: translated{
		"请查看最新的授权卡片。", "See the latest card for your link.", "最新のカードのリンクを使ってください。",
	},
	toastAlready:  translated{"你已经授权，无需再操作。", "You have authorized it already.", "すでに許可されています。"},
	toastNotYours: translated{"此请求是发给另一位用户的。", "This request was meant for someone else.", "このリクエストは別のユーザー宛てです。"},
	toastOver:     translated{"此请求已结束。", "This request is over already.", "このリクエストはすでに終了しています。"},
	toastRate:     translated{"请求太频繁，请稍后再试。", "Too many requests; try again in a minute.", "リクエストが多すぎます。しばらくしてからお試しください。"},
	toastFailed:   translated{"暂时无法处理，请稍后再试。", "That did not work; try again in a moment.", "処理できませんでした。しばらくしてからお試しください。"},

	asked: translated{"来自 {app} 的授权请求", "Authorization request from {app}", "{app} からの許可リクエスト"},
	back:  translated{"返回聊天", "Back to the chat", "チャットに戻る"},
	linkByCard: translated{
		"想获取新的链接，请在聊天中的卡片上点击“发送新的链接”，或再次使用该应用。",
		"To get a new link, press “Send me a new link” on the card in the chat, or use the app again.",
		"新しいリンクは、チャットのカードの「新しいリンクを受け取る」を押すか、もう一度アプリを使うと届きます。",
	},
	linkByUse: translated{
		"想获取新的链接，请回到聊天，重复刚才的操作：应用会发来新的卡片。",
		"To get a new link, go back to the chat and repeat what you were doing: the app sends a new card.",
		"新しいリンクは、チャットに戻って先ほどの操作をもう一度行うと届きます。",
	},

	done: message{
		title: translated{"授权成功", "Authorized", "許可しました"},
		card: translated{
			"**{app}** 现在可以以你的身份工作了。", "**{app}** can act for you now.", "**{app}** があなたの代わりに動作できるようになりました。",
		},
		page: translated{
			"该应用现在可以以你的身份工作。", "The app can act for you now.", "アプリがあなたの代わりに動作できるようになりました。",
		},
		next: []translated{{
			"请回到聊天，重复刚才的操作。", "Go back to the chat and repeat what you were doing.", "チャットに戻り、先ほどの操作をもう一度行ってください。",
		}},
		note: translated{
			"想撤销授权？请联系应用的负责人或企业管理员，撤销后立即失效。", "To undo it, ask the people who run the app, or your Lark administrator, to revoke it. That takes effect at once.", "取り消すには、アプリの担当者または Lark の管理者に許可の取り消しを依頼してください。すぐに無効になります。",
		},
	},
	declined: message{
		title: translated{"你已拒绝授权", "You declined", "拒否しました"},
		card: translated{
			"**{app}** 没有获得任何权限。", "**{app}** was given no access.", "**{app}** には何も許可されていません。",
		},
		page: translated{
			"没有授予任何权限。", "Nothing was granted.", "何も許可されていません。",
		},
		next: []translated{{
			"改变主意了？{link}", "Changed your mind? {link}", "気が変わったら: {link}",
		}},
	},
	expired: message{
		title: translated{"链接已过期", "This link has expired", "リンクの有効期限が切れました"},
		card: translated{
			"授权链接已过期。再次使用 **{app}** 即可收到新的链接。",
			"The link has expired. Use **{app}** again to get a new one.",
			"リンクの有効期限が切れました。もう一度 **{app}** を使うと新しいリンクが届きます。",
		},
		page: translated{
			"授权链接只在短时间内有效，且只能使用一次。", "A link works for a short time only, and once.", "リンクは短時間、一度だけ有効です。",
		},
		next: []translated{{"{link}", "{link}", "{link}"}},
	},
	superseded: message{
		title: translated{"已被新的请求取代", "Replaced by a newer request", "新しいリクエストに置き換えられました"},
		card: translated{
			"**{app}** 发送了新的授权请求，请使用最新的卡片。",
			"There is a newer request from **{app}**; use the latest card.",
			"**{app}** から新しいリクエストがあります。最新のカードを使ってください。",
		},
		page: translated{
			"该应用发来了更新的请求，此链接不再有效。", "The app has sent a newer request, so this link no longer works.", "アプリから新しいリクエストが届いたため、このリンクは使えません。",
		},
		next: []translated{{
			"请在聊天中打开最新的卡片。", "Open the latest card in the chat.", "チャットで最新のカードを開いてください。",
		}},
	},
	failed: message{
		title: translated{"授权未完成", "Authorization was not completed", "許可は完了しませんでした"},
		card: translated{
			"授权未能完成，没有保存任何内容。再次使用 **{app}** 即可重试。",
			"Something went wrong and nothing was stored. Use **{app}** again to retry.",
			"問題が発生し、何も保存されていません。もう一度 **{app}** を使ってお試しください。",
		},
		page: translated{
			"出现了问题，没有保存任何内容。", "Something went wrong, and nothing was stored.", "問題が発生しました。何も保存されていません。",
		},
		next: []translated{{"{link}", "{link}", "{link}"}},
	},
	wrongAccount: message{
		title: translated{"账号不符", "Wrong account", "アカウントが違います"},
		card: translated{
			"有人用另一个账号打开了你的链接。没有保存任何内容，该授权已撤销。再次使用 **{app}** 即可收到新的链接。",
			"Someone else's account was used with your link. Nothing was stored and what was granted is revoked. Use **{app}** again to get a new link.",
			"別のアカウントでリンクが使われました。何も保存されず、許可は取り消されました。もう一度 **{app}** を使うと新しいリンクが届きます。",
		},
		page: translated{
			"这个请求是发给另一个飞书账号的，不是你现在登录的账号。没有保存任何内容，刚才的授权已撤销。", "This request is for another Lark account than the one you are signed in with. Nothing was stored, and what you just granted was revoked.", "このリクエストは、ログイン中のアカウントとは別の Lark アカウント宛てです。何も保存されず、今回の許可は取り消されました。",
		},
		next: []translated{{
			"切换到收到卡片的飞书账号，或在此浏览器中退出登录。", "Switch to the Lark account that got the card, or sign out of Lark in this browser.", "カードを受け取った Lark アカウントに切り替えるか、このブラウザで Lark からログアウトしてください。",
		}, {
			"{link}", "{link}", "{link}",
		}},
		note: translated{"链接是别人给你的？那就与你无关，无需处理。", "Did somebody else give you the link? Then it was not meant for you, and you can ignore it.", "リンクを他の人から受け取った場合は、あなた宛てではありません。何もしないでください。"},
	},
	revoked: message{
		title: translated{"授权已撤销", "Authorization revoked", "許可は取り消されました"},
		card: translated{
			"**{app}** 不再能以你的身份访问。", "**{app}** can no longer act for you.", "**{app}** はあなたの代わりに動作できなくなりました。",
		},
	},

	malformed: message{
		title: translated{"链接无效", "This link is not valid", "無効なリンクです"},
		page: translated{
			"链接不完整，或已太旧。", "It is incomplete, or too old.", "リンクが不完全か、古すぎます。",
		},
		next: []translated{{
			"请从聊天中的卡片重新打开。", "Open it again from the card in the chat.", "チャットのカードからもう一度開いてください。",
		}},
		note: translated{"{link}", "{link}", "{link}"},
	},
	otherBrowser: message{
		title: translated{"请在同一个浏览器中继续", "Continue in the browser you started in", "開始したブラウザで続けてください"},
		page: translated{
			"授权是在另一个浏览器中开始的，因此不能在这里完成。", "This authorization was started in another browser, so it can't be completed here.", "この手続きは別のブラウザで始められたため、ここでは完了できません。",
		},
		next: []translated{{
			"请从聊天中的卡片重新打开，并留在同一个浏览器中。", "Open it again from the card in the chat, and stay in that browser.", "チャットのカードからもう一度開き、同じブラウザで続けてください。",
		}},
	},
	larkFailed: message{
		title: translated{"飞书暂时没有响应", "Lark did not respond properly", "Lark から応答がありません"},
		page: translated{
			"没有保存任何内容，链接仍然有效。", "Nothing was stored, and your link still works.", "何も保存されていません。リンクは引き続き有効です。",
		},
		next: []translated{{
			"请稍后从聊天中的卡片重试。", "Try again from the card in the chat in a moment.", "しばらくしてからチャットのカードでもう一度お試しください。",
		}},
	},
	unavailable: message{
		title: translated{"暂时不可用", "Not available right now", "現在利用できません"},
		page: translated{
			"服务暂时无法处理，你的授权请求仍然保留。", "The service can't handle it right now. Your request is kept.", "現在処理できませんが、リクエストは保持されています。",
		},
		next: []translated{{
			"请稍后从聊天中的卡片重试。", "Try again from the card in the chat in a moment.", "しばらくしてからチャットのカードでもう一度お試しください。",
		}},
	},
	notFound: message{
		title: translated{"页面不存在", "There is no such page", "ページが見つかりません"},
		page: translated{
			"此地址上没有内容。", "This address leads nowhere.", "このアドレスには何もありません。",
		},
		next: []translated{{
			"请从聊天中的卡片打开链接。", "Open the link from the card in the chat.", "チャットのカードからリンクを開いてください。",
		}},
	},
	method: message{
		title: translated{"不支持此请求方式", "This kind of request is not supported", "このリクエストはサポートされていません"},
		page: translated{
			"此页面只能用浏览器打开。", "This page can only be opened in a browser.", "このページはブラウザでのみ開けます。",
		},
		next: []translated{{
			"请从聊天中的卡片打开链接。", "Open the link from the card in the chat.", "チャットのカードからリンクを開いてください。",
		}},
	},
}
