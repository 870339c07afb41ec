-- The server's half of the engine: after every server step one JSON object with the state, and commands carried out.
--
-- Tasks add to both through the global `bridge`:
--   bridge.command(name, function(player, args, done) ... done(result) end)
--       Called once for each command of that name. `done` may be called later, in another step; `result` is a table or
--       nil. What is raised with error() fails the command; `done.fail(message)` does the same later.
--   bridge.state(function(player) return table end)
--       Its entries are put into state.task of every step.
--   bridge.event(table)
--       Put into state.events of the step that is under way, or the next one.

bridge = {}

local folder = minetest.get_worldpath()
local commands, reporters, events, answers = {}, {}, {}, {}
local tick, clock = 0, 0
local failure

function bridge.command(name, carry_out)
	assert(not commands[name], "there is already a command " .. name)
	commands[name] = carry_out
end

function bridge.state(report)
	reporters[#reporters + 1] = report
end

function bridge.event(event)
	events[#events + 1] = event
end

local function traced(call, ...)
	local arguments, count = { ... }, select("#", ...)
	return xpcall(function()
		return call(unpack(arguments, 1, count))
	end, debug.traceback)
end

-- Answers once, with a result or with the reason of the failure.
local function answering(id)
	local answered = false
	local function answer(value)
		if not answered then
			answered = true
			value.id = id
			answers[#answers + 1] = value
		end
	end
	local done = { fail = function(message) answer({ error = tostring(message) }) end }
	return setmetatable(done, { __call = function(_, result) answer({ result = result or {} }) end })
end

local function read_command()
	local path = folder .. "/command.json"
	local file = io.open(path, "r")
	if not file then
		return nil
	end
	local text = file:read("*a")
	file:close()
	os.remove(path)
	return minetest.parse_json(text)
end

local function carry_out(player)
	local command = read_command()
	if not command then
		return
	end
	local done = answering(command.id)
	local known = commands[command.name]
	if not known then
		done.fail("there is no command " .. tostring(command.name))
		return
	end
	local fine, message = traced(known, player, command.arguments or {}, done)
	if not fine then
		done.fail(message)
	end
end

local function carried(player)
	local counts = {}
	for _, list in ipairs({ "main", "craft" }) do
		for _, stack in ipairs(player:get_inventory():get_list(list) or {}) do
			if not stack:is_empty() then
				counts[stack:get_name()] = (counts[stack:get_name()] or 0) + stack:get_count()
			end
		end
	end
	return counts
end

local function describe(player)
	local pos = player:get_pos()
	local task = {}
	for _, report in ipairs(reporters) do
		local fine, entries = traced(report, player)
		if fine then
			for key, value in pairs(entries or {}) do
				task[key] = value
			end
		else
			failure = entries
		end
	end
	return {
		pos = { pos.x, pos.y, pos.z },
		yaw = (180 - math.deg(player:get_look_horizontal())) % 360 - 180,
		pitch = math.deg(player:get_look_vertical()),
		hp = player:get_hp(),
		inventory = carried(player),
		wielded = player:get_wielded_item():get_name(),
		task = task,
	}
end

minetest.register_on_joinplayer(function(player)
	player:hud_set_flags({ hotbar = false, crosshair = false, healthbar = false, breathbar = false, minimap = false })
	minetest.set_timeofday(0.5)
end)

-- A dead player sees a dialog and waits for a click. Here death is an event, and life goes on.
minetest.register_on_player_hpchange(function(player, change)
	if player:get_hp() + change > 0 then
		return change
	end
	bridge.event({ type = "death" })
	return player:get_properties().hp_max - player:get_hp()
end, true)

bridge.command("teleport", function(player, args, done)
	player:set_pos({ x = args.pos[1], y = args.pos[2], z = args.pos[3] })
	done()
end)

bridge.command("look", function(player, args, done)
	player:set_look_horizontal(math.rad(-args.yaw))
	player:set_look_vertical(math.rad(args.pitch))
	done()
end)

local path = minetest.get_modpath(minetest.get_current_modname()) .. "/tasks.lua"
local tasks = io.open(path, "r")
if tasks then
	tasks:close()
	dofile(path)
end

-- Registered last, so that what the tasks do in a step is in the state of that step.
minetest.register_globalstep(function(dtime)
	tick, clock = tick + 1, clock + dtime
	local player = minetest.get_connected_players()[1]
	local state = {}
	if player then
		carry_out(player)
		state = describe(player)
	end
	state.tick, state.time = tick, clock
	state.events, state.answers, state.failure = events, answers, failure
	minetest.safe_file_write(folder .. "/state.json", minetest.write_json(state))
	events, answers, failure = {}, {}, nil
end)
