//! The language of scripts: a subset of packetdrill's.
//!
//! ```text
//!   // a comment
//!   TIME CALL(argument, ...) = RESULT [ERRNO (...)]
//!   TIME < [ECN] FLAGS FIRST:LAST(LENGTH) [ack N] [win N] [<option, ...>]
//!   TIME > [ECN] FLAGS FIRST:LAST(LENGTH) [ack N] [win N] [<option, ...>]
//!   TIME < icmp unreachable CODE [mtu N] [FIRST:LAST(LENGTH)]
//! ```
//!
//! `ECN` is `[noecn]`, `[ect0]`, `[ect1]` or `[ce]`. `TIME` is `0.5`, `+.5`, or `+.3~+.4`, seconds since the beginning or the event before.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::packet::{Option_, Segment};

/// What happens at a time.
#[derive(Debug)]
pub enum What {
    /// A system call: its name, arguments, result and perhaps errno's name.
    Call { name: String, arguments: Vec<String>, result: i64, errno: Option<String> },
    /// A segment comes.
    In(Segment),
    /// A segment goes.
    Out(Segment),
    /// An ICMP error comes, about the segment of ours that begins at `first`.
    Trouble { code: u8, mtu: u16, first: u32 },
}

/// A line of a script.
#[derive(Debug)]
pub struct Event {
    pub line: usize,
    /// Since the beginning, or the event before.
    pub at: Time,
    /// How much later it may be.
    pub slack: Duration,
    pub what: What,
}

/// When.
#[derive(Clone, Copy, Debug)]
pub enum Time {
    Absolute(Duration),
    Relative(Duration),
}

/// Reads a script.
pub fn parse(text: &str) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if !line.is_empty() {
            let event =
                parse_line(number + 1, line).with_context(|| format!("line {}", number + 1))?;
            events.push(event);
        }
    }
    Ok(events)
}

fn parse_line(line: usize, text: &str) -> Result<Event> {
    let (time, rest) = text.split_once(char::is_whitespace).context("no event")?;
    let rest = rest.trim();
    let (at, slack) = parse_time(time)?;
    let what = if let Some(error) = rest.strip_prefix("< icmp unreachable ") {
        parse_trouble(error)?
    } else if let Some(segment) = rest.strip_prefix('<') {
        What::In(parse_segment(segment.trim())?)
    } else if let Some(segment) = rest.strip_prefix('>') {
        What::Out(parse_segment(segment.trim())?)
    } else {
        parse_call(rest)?
    };
    Ok(Event { line, at, slack, what })
}

fn seconds(text: &str) -> Result<Duration> {
    let number: f64 = text.parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(Duration::from_secs_f64(number))
}

fn parse_time(text: &str) -> Result<(Time, Duration)> {
    if let Some((from, to)) = text.split_once('~') {
        let plain = |text: &str| seconds(text.strip_prefix('+').unwrap_or(text));
        let (from, to) = (plain(from)?, plain(to)?);
        return Ok((
            Time::Relative(from),
            to.checked_sub(from).context("a range ends before it begins")?,
        ));
    }
    let at = match text.strip_prefix('+') {
        Some(text) => Time::Relative(seconds(text)?),
        None => Time::Absolute(seconds(text)?),
    };
    Ok((at, Duration::ZERO))
}

fn parse_call(text: &str) -> Result<What> {
    let (name, rest) = text.split_once('(').context("no call")?;
    let (arguments, result) = rest
        .rsplit_once(") = ")
        .or_else(|| {
            // errno's text stands in parentheses as well.
            rest.find(") = ").map(|at| (&rest[..at], &rest[at + 4..]))
        })
        .context("no result")?;
    let arguments = arguments.split(',').map(|argument| argument.trim().to_owned()).collect();
    let mut words = result.split_whitespace();
    let number = words.next().context("no result")?;
    let result = number.parse().with_context(|| format!("{number:?} is no result"))?;
    let errno = words.next().map(str::to_owned);
    Ok(What::Call { name: name.trim().to_owned(), arguments, result, errno })
}

fn parse_trouble(text: &str) -> Result<What> {
    let (text, numbers) = text.split_once('[').context("about which segment?")?;
    let first = numbers.split(':').next().context("no number")?.parse()?;
    let words: Vec<_> = text.split_whitespace().collect();
    let (code, mtu) = match words[..] {
        ["net_unreachable"] => (0, 0),
        ["host_unreachable"] => (1, 0),
        ["protocol_unreachable"] => (2, 0),
        ["port_unreachable"] => (3, 0),
        ["frag_needed", "mtu", mtu] => (4, mtu.parse()?),
        _ => bail!("ICMP error {text:?} is unknown"),
    };
    Ok(What::Trouble { code, mtu, first })
}

fn parse_segment(text: &str) -> Result<Segment> {
    let (head, options) = match text.split_once('<') {
        Some((head, options)) => {
            (head, parse_options(options.strip_suffix('>').context("options without an end")?)?)
        }
        None => (text, Vec::new()),
    };
    let mut words = head.split_whitespace().peekable();
    let class = match words.peek() {
        Some(&"[noecn]") => Some(0),
        Some(&"[ect1]") => Some(1),
        Some(&"[ect0]") => Some(2),
        Some(&"[ce]") => Some(3),
        _ => None,
    };
    if class.is_some() {
        words.next();
    }
    let flags = words.next().context("no flags")?.to_owned();
    ensure!(flags.chars().all(|flag| "SFRP.UEW".contains(flag)), "flags {flags:?}");
    let numbers = words.next().context("no numbers")?;
    let (first, rest) = numbers.split_once(':').context("no first number")?;
    let (last, len) = rest.split_once('(').context("no last number")?;
    let len: u32 = len.strip_suffix(')').context("no length")?.parse()?;
    let (first, last): (u32, u32) = (first.parse()?, last.parse()?);
    ensure!(last.wrapping_sub(first) == len, "{first}:{last} is not {len} bytes");
    let (mut ack, mut window) = (None, None);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} of what?"))?;
        match word {
            "ack" => ack = Some(value.parse()?),
            "win" => window = Some(value.parse()?),
            _ => bail!("{word:?} is unknown"),
        }
    }
    Ok(Segment { class, flags, first, len, ack, window, options })
}

fn parse_options(text: &str) -> Result<Vec<Option_>> {
    let mut options = Vec::new();
    for option in text.split(',').map(str::trim) {
        let words: Vec<_> = option.split_whitespace().collect();
        options.push(match words[..] {
            ["mss", bytes] => Option_::Mss(bytes.parse()?),
            ["wscale", shift] => Option_::Scale(shift.parse()?),
            ["nop"] => Option_::Nop,
            ["eol"] => Option_::End,
            ["sackOK"] => Option_::SackPermitted,
            ["TS", "val", value, "ecr", echo] => Option_::Stamps(value.parse()?, echo.parse()?),
            ["sack", ref ranges @ ..] => {
                let range = |text: &&str| -> Result<(u32, u32)> {
                    let (first, last) = text.split_once(':').context("no range")?;
                    Ok((first.parse()?, last.parse()?))
                };
                Option_::Sack(ranges.iter().map(range).collect::<Result<_>>()?)
            }
            ["FO"] => Option_::FastOpen(Vec::new()),
            ["FO", cookie] => {
                let byte = |at| u8::from_str_radix(cookie.get(at..at + 2).unwrap_or("?"), 16);
                let bytes = (0..cookie.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
                Option_::FastOpen(bytes)
            }
            _ => bail!("option {option:?} is unknown"),
        });
    }
    Ok(options)
}
