//! WAL as PostgreSQL writes it: records laid over pages and segments, with their checksums. Made from the description of the
//! format, not with what it tests.
#![allow(clippy::unwrap_used, dead_code, reason = "a test may panic, and not every test needs every part")]

/// Small pages and segments would do, but a segment has to have at least 1 MiB.
pub(crate) const SEGMENT: usize = 1 << 20;
pub(crate) const PAGE: usize = 8192;
pub(crate) const SYSTEM: u64 = 7_406_321_547_896_325_411;
/// The first segment made here is `000000010000000000000009` with segments of 1 MiB.
pub(crate) const START: u64 = 0x90_0000;

/// WAL that grows at its end.
pub(crate) struct Wal {
    bytes: Vec<u8>,
    big_endian: bool,
    previous: u64,
    /// What stands behind the main data header of records: an origin, for example.
    pub(crate) extra: Vec<u8>,
}

/// Where a record was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Where it begins, from [`START`] on.
    pub(crate) at: usize,
    pub(crate) length: u32,
    pub(crate) manager: u8,
    pub(crate) info: u8,
}

impl Wal {
    pub(crate) fn new(big_endian: bool) -> Self {
        Self { bytes: Vec::new(), big_endian, previous: 0, extra: Vec::new() }
    }

    fn number(&self, little: &[u8]) -> Vec<u8> {
        let mut bytes = little.to_vec();
        if self.big_endian {
            bytes.reverse();
        }
        bytes
    }

    /// Where the next byte goes, behind the header of its page.
    pub(crate) fn here(&mut self) -> usize {
        self.begin_page(0, 0);
        self.bytes.len()
    }

    fn begin_page(&mut self, rest: u32, flags: u16) {
        if !self.bytes.len().is_multiple_of(PAGE) {
            return;
        }
        let at = self.bytes.len();
        let long = at.is_multiple_of(SEGMENT);
        let flags = flags | u16::from(rest > 0) | if long { 2 } else { 0 };
        let mut header = [0xD110_u16.to_le_bytes(), flags.to_le_bytes()].map(|field| self.number(&field)).concat();
        header.extend(self.number(&1_u32.to_le_bytes()));
        header.extend(self.number(&(START + at as u64).to_le_bytes()));
        header.extend(self.number(&rest.to_le_bytes()));
        header.extend([0; 4]);
        if long {
            header.extend(self.number(&SYSTEM.to_le_bytes()));
            header.extend(self.number(&(SEGMENT as u32).to_le_bytes()));
            header.extend(self.number(&(PAGE as u32).to_le_bytes()));
        }
        self.bytes.extend(header);
    }

    /// Writes a record; tells where.
    pub(crate) fn record(&mut self, manager: u8, info: u8, data: &[u8]) -> Written {
        let record = self.encode(manager, info, data);
        let length = record.len();
        let at = self.here();
        self.put(&record, length);
        self.previous = START + at as u64;
        Written { at, length: u32::try_from(length).unwrap(), manager, info }
    }

    /// Writes a record of which a crash has left only so much, and goes on as a server does after that: at the next page.
    pub(crate) fn torn(&mut self, manager: u8, info: u8, data: &[u8], pages: usize) {
        let record = self.encode(manager, info, data);
        let at = self.here();
        let until = (at / PAGE + pages) * PAGE;
        let mut left = record.as_slice();
        while self.bytes.len() < until {
            self.begin_page(u32::try_from(left.len()).unwrap(), 0);
            let room = PAGE - self.bytes.len() % PAGE;
            let (here, behind) = left.split_at(room.min(left.len()));
            assert!(!behind.is_empty(), "the record would be whole");
            self.bytes.extend(here);
            left = behind;
        }
        self.begin_page(0, 8);
    }

    /// Writes no more into this page.
    pub(crate) fn skip_page(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE), 0);
    }

    /// Leaves pages empty, up to the one before the last of the segment: large tests would take long.
    pub(crate) fn skip_most(&mut self) {
        let at = self.here();
        self.bytes.resize((at / SEGMENT + 1) * SEGMENT - 2 * PAGE, 0);
    }

    fn put(&mut self, record: &[u8], length: usize) {
        let mut written = 0;
        while written < length {
            self.begin_page(if written > 0 { u32::try_from(length - written).unwrap() } else { 0 }, 0);
            let room = PAGE - self.bytes.len() % PAGE;
            let here = room.min(length - written);
            self.bytes.extend(&record[written..written + here]);
            written += here;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn encode(&self, manager: u8, info: u8, data: &[u8]) -> Vec<u8> {
        let mut body = self.extra.clone();
        match u8::try_from(data.len()) {
            Ok(length) => body.extend([255, length]),
            Err(_) => {
                body.push(254);
                body.extend(self.number(&u32::try_from(data.len()).unwrap().to_le_bytes()));
            }
        }
        body.extend(data);
        let mut header = self.number(&u32::try_from(24 + body.len()).unwrap().to_le_bytes());
        header.extend(self.number(&700_u32.to_le_bytes()));
        header.extend(self.number(&self.previous.to_le_bytes()));
        header.extend([info, manager, 0, 0]);
        let checksum = crc32c(&[body.as_slice(), &header].concat());
        header.extend(self.number(&checksum.to_le_bytes()));
        [header, body].concat()
    }

    /// `CREATE TABLESPACE`
    pub(crate) fn create_tablespace(&mut self, oid: u32, path: &str) -> Written {
        let data = self.tablespace(oid, path);
        self.record(5, 0, &data)
    }

    /// The main data of such a record.
    pub(crate) fn tablespace(&self, oid: u32, path: &str) -> Vec<u8> {
        [self.number(&oid.to_le_bytes()), path.as_bytes().to_vec(), vec![0]].concat()
    }

    /// All segments, the last one filled with zeros.
    pub(crate) fn segments(&self) -> Vec<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len().next_multiple_of(SEGMENT), 0);
        bytes.chunks(SEGMENT).map(<[u8]>::to_vec).collect()
    }
}

/// CRC-32C, with one table.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let (mut sum, mut bit) = (at as u32, 0);
            while bit < 8 {
                sum = if sum & 1 == 1 { sum >> 1 ^ 0x82F6_3B78 } else { sum >> 1 };
                bit += 1;
            }
            table[at] = sum;
            at += 1;
        }
        table
    };
    !bytes.iter().fold(!0_u32, |sum, byte| TABLE[usize::from(sum as u8 ^ byte)] ^ sum >> 8)
}
