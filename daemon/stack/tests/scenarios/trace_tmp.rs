use dmm_stack::pair::{End, Pair, Quota};
use crate::{lossy, secs};
#[test]
fn trace() {
    let mut pair = Pair::new("smoltcp", &lossy(5));
    let quotas = [Quota::new(8192), Quota::new(8192)];
    pair.listen(End::Right, 0, crate::right(80), 256);
    let mut clients: Vec<_> = (1..=200_u16).map(|n| {
        let other = pair.credit(End::Right, &quotas[1], 0, n.into());
        let ends = (crate::left(1000 + n), crate::right(80));
        (pair.connect(End::Left, &quotas[0], n.into(), ends), other)
    }).collect();
    pair.keep_frames(End::Left); pair.keep_frames(End::Right);
    pair.run_until(secs(40), |pair| {
        for end in [End::Left, End::Right] {
            for f in pair.take_frames(end) {
                if f.len() < 54 || f[12..14] != [8, 0] { continue; }
                let p = if end == End::Left { 34 } else { 36 };
                if u16::from_be_bytes([f[p], f[p+1]]) != 1004 { continue; }
                let b = |i: usize| u32::from_be_bytes(f[i..i+4].try_into().unwrap());
                println!("{:>12} {:?} seq {} ack {} flags {:02x} win {} len {}", pair.now.as_micros(), end, b(38), b(42), f[47], u16::from_be_bytes([f[48],f[49]]), f.len() - 34 - (f[46]>>4) as usize * 4);
            }
        }
        for (one, other) in &mut clients {
            if pair.of(one).connected == Some(Ok(())) && one.sent < 20_000 { pair.write_until(one, 20_000); }
            if pair.of(other).accepted.is_some() && other.sent < 10_000 { pair.write_until(other, 10_000); }
            pair.read_all(one); pair.read_all(other);
        }
        false
    });
}
