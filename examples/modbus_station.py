"""
A Modbus/TCP station: unit 1, with 1,000 each of coils, discrete inputs, holding
registers and input registers from address 0.

What is reached by its IP address needs no unit: 255 and 0 mean the station as well
(Implementation Guide section 4.4.1.2). Other units are answered as by a gateway
that has no such device behind it. Try `python examples/modbus_station.py 1502`.
"""

import argparse
import threading

import attrs

from protocols import modbus as mb
from protocols.modbus import ExceptionCode, Mbap, ModbusError, ModbusException
from protoserve import (
    MalformedMessageError,
    Service,
    malformed,
    on_error,
    route,
    unknown,
)
from protoserve.server import ThreadingTCPServer

SIZE = 1000
UNITS = {0, 1, 255}
FUNCTIONS = {1, 2, 3, 4, 5, 6, 15, 16, 22, 23, 43}
DEVICE = {
    0x00: b"protoserve",  # vendor
    0x01: b"STATION",  # product code
    0x02: b"1.0",  # revision
    0x04: b"Modbus example station",  # product name
    0x80: b"1000 coils, 1000 inputs, 1000 + 1000 registers",
}


def span(mbap: Mbap, address: int, count: int = 1) -> slice:
    """
    Give the place of some coils or registers, if they are ours.
    """
    if mbap.unit not in UNITS:
        raise ModbusError(ExceptionCode.GATEWAY_TARGET_DEVICE_FAILED_TO_RESPOND)
    if address + count > SIZE:
        raise ModbusError(ExceptionCode.ILLEGAL_DATA_ADDRESS)
    return slice(address, address + count)


@attrs.define
class Station:
    """
    The data, and what is done with it.
    """

    coils: list[bool] = attrs.field(factory=lambda: [False] * SIZE)
    inputs: list[bool] = attrs.field(factory=lambda: [False] * SIZE)
    holding: list[int] = attrs.field(factory=lambda: [0] * SIZE)
    readings: list[int] = attrs.field(factory=lambda: [0] * SIZE)
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    @route
    def read_coils(self, ask: mb.ReadCoils, mbap: Mbap) -> mb.Coils:
        """Function 1."""
        return mb.Coils(self.coils[span(mbap, ask.address, ask.count)])

    @route
    def read_discrete_inputs(
        self, ask: mb.ReadDiscreteInputs, mbap: Mbap
    ) -> mb.DiscreteInputs:
        """Function 2."""
        return mb.DiscreteInputs(self.inputs[span(mbap, ask.address, ask.count)])

    @route
    def read_holding_registers(
        self, ask: mb.ReadHoldingRegisters, mbap: Mbap
    ) -> mb.HoldingRegisters:
        """Function 3."""
        return mb.HoldingRegisters(self.holding[span(mbap, ask.address, ask.count)])

    @route
    def read_input_registers(
        self, ask: mb.ReadInputRegisters, mbap: Mbap
    ) -> mb.InputRegisters:
        """Function 4."""
        return mb.InputRegisters(self.readings[span(mbap, ask.address, ask.count)])

    @route
    def write_single_coil(self, ask: mb.WriteSingleCoil, mbap: Mbap) -> mb.CoilWritten:
        """Function 5."""
        self.coils[span(mbap, ask.address)] = [ask.value]
        return mb.CoilWritten(ask.address, ask.value)

    @route
    def write_single_register(
        self, ask: mb.WriteSingleRegister, mbap: Mbap
    ) -> mb.RegisterWritten:
        """Function 6."""
        with self.lock:
            self.holding[span(mbap, ask.address)] = [ask.value]
        return mb.RegisterWritten(ask.address, ask.value)

    @route
    def write_multiple_coils(
        self, ask: mb.WriteMultipleCoils, mbap: Mbap
    ) -> mb.CoilsWritten:
        """Function 15."""
        self.coils[span(mbap, ask.address, ask.count)] = ask.values
        return mb.CoilsWritten(ask.address, ask.count)

    @route
    def write_multiple_registers(
        self, ask: mb.WriteMultipleRegisters, mbap: Mbap
    ) -> mb.RegistersWritten:
        """Function 16."""
        with self.lock:
            self.holding[span(mbap, ask.address, ask.count)] = ask.values
        return mb.RegistersWritten(ask.address, ask.count)

    @route
    def mask_write_register(
        self, ask: mb.MaskWriteRegister, mbap: Mbap
    ) -> mb.RegisterMasked:
        """Function 22."""
        place = span(mbap, ask.address)
        with self.lock:
            self.holding[place] = map(ask.applied, self.holding[place])
        return mb.RegisterMasked(ask.address, ask.and_mask, ask.or_mask)

    @route
    def read_write_multiple_registers(
        self, ask: mb.ReadWriteMultipleRegisters, mbap: Mbap
    ) -> mb.RegistersExchanged:
        """Function 23: nothing is written if the read is refused."""
        read = span(mbap, ask.read_address, ask.read_count)
        written = span(mbap, ask.write_address, ask.write_count)
        with self.lock:
            self.holding[written] = ask.values
            return mb.RegistersExchanged(self.holding[read])

    @route
    def read_device_identification(
        self, ask: mb.ReadDeviceIdentification, mbap: Mbap
    ) -> mb.DeviceIdentification:
        """Function 43 with MEI type 14."""
        span(mbap, 0)
        return mb.identify(ask, DEVICE)

    @on_error(ModbusError)
    def refuse(self, error: ModbusError) -> ModbusException:
        """What `span` and `identify` raise becomes an exception response."""
        return error.response

    @unknown
    def refuse_function(self) -> ModbusException:
        """Functions without a route, Guide section 4.4.2.2."""
        return ModbusException(ExceptionCode.ILLEGAL_FUNCTION)

    @malformed
    def refuse_value(
        self, error: MalformedMessageError, mbap: Mbap | None
    ) -> ModbusException | None:
        """All that the declarations refuse."""
        if mbap is None or error.path.startswith("Mbap"):
            return None  # not Modbus: simply discarded, Guide section 4.4.2.2
        if mbap.function not in FUNCTIONS or error.path.endswith(".mei_type"):
            return self.refuse_function()  # the function is looked at first
        return ModbusException(ExceptionCode.ILLEGAL_DATA_VALUE)


app = Service(mb.modbus, Station(), on_malformed="skip")


def main(port: int) -> None:
    """
    Serve until interrupted.
    """
    with ThreadingTCPServer(("127.0.0.1", port), app.RequestHandlerClass) as server:
        print("listening on tcp://{}:{}".format(*server.server_address[:2]), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, nargs="?", default=1502, help="(%(default)s)")
    try:
        main(parser.parse_args().port)
    except (OSError, OverflowError) as error:  # the port is taken, or is none
        parser.error(str(error))
    except KeyboardInterrupt:
        pass
